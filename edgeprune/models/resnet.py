"""ResNet-18/50/101 backbones (He et al., CVPR 2016) with dilation for segmentation; torchvision's key names.

Every block carries its own widths, so that a pruned network can also be built directly.
"""

from __future__ import annotations

import torch
from torch import nn

LAYERS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def bottlenecks(depth: int) -> tuple[int, ...]:
    """Blocks a stage of the ResNets that are made of bottlenecks.

    Raises:
        ValueError: of another depth.
    """
    if depth not in (50, 101):
        raise ValueError(f"depth is 50 or 101, not {depth}")
    return LAYERS[depth]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, inp: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inp, width, 3, stride, dilation, dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inp, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided, dilated), 1x1 to four times the width, and a shortcut."""

    expansion = 4

    def __init__(self, inp: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inp, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inp, 4 * width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


def _shortcut(inp: int, out: int, stride: int) -> nn.Module | None:
    if stride == 1 and inp == out:
        return None
    return nn.Sequential(nn.Conv2d(inp, out, 1, stride, bias=False), nn.BatchNorm2d(out))


class ResNet(nn.Module):
    """Features of a ResNet: {"low": stride 4, "mid": layer3, "high": layer4}.

    Args:
        depth: 18, 50 or 101.
        output_stride: 8 or 16; later stages are dilated instead of strided.
        width: channels of the first stage (64 in the paper).
    """

    def __init__(self, depth: int = 50, output_stride: int = 8, width: int = 64) -> None:
        super().__init__()
        block = BasicBlock if depth == 18 else Bottleneck
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inp, stride, dilation = width, 4, 1
        for number, count in enumerate(LAYERS[depth]):
            step = 1 if number == 0 else 2
            first = dilation  # torchvision: the block that would have strided keeps the dilation before it
            if step == 2 and stride >= output_stride:
                step, dilation = 1, dilation * 2
            stride *= step
            out = width * 2**number
            blocks: list[nn.Module] = [block(inp, out, step, first)]
            inp = out * block.expansion
            blocks += [block(inp, out, 1, dilation) for _ in range(count - 1)]
            setattr(self, f"layer{number + 1}", nn.Sequential(*blocks))
        self.channels = {"low": width * block.expansion, "mid": inp // 2, "high": inp}
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        low = self.stages[0](x)
        mid = self.stages[2](self.stages[1](low))
        return {"low": low, "mid": mid, "high": self.stages[3](mid)}

    @property
    def stages(self) -> list[nn.Module]:
        """layer1 to layer4, under torchvision's names."""
        return [self.get_submodule(f"layer{number}") for number in range(1, 5)]
