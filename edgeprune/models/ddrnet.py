"""DDRNet-23-slim (Hong et al. 2021, arXiv 2101.06085): two branches that exchange features; ydhongHIT/DDRNet's key names.

5.7 M parameters with 19 classes and without the auxiliary head. Its blocks serve PIDNet too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from edgeprune.models.ranges import Width


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut; `act` False leaves the ReLU to what follows."""

    expansion = 1

    def __init__(self, inp: int, width: int, stride: int = 1, act: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inp, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(inp, width, stride)
        self.act = act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = x if self.downsample is None else self.downsample(x)
        x = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + kept
        return F.relu(x) if self.act else x


class Narrow(nn.Module):
    """A bottleneck to twice the width, without a last ReLU unless `act`."""

    expansion = 2

    def __init__(self, inp: int, width: int, stride: int = 1, act: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inp, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 2 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(2 * width)
        self.downsample = shortcut(inp, 2 * width, stride)
        self.act = act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        x = self.bn3(self.conv3(x)) + kept
        return F.relu(x) if self.act else x


def shortcut(inp: int, out: int, stride: int) -> nn.Module | None:
    """None where the input itself serves."""
    if stride == 1 and inp == out:
        return None
    return nn.Sequential(nn.Conv2d(inp, out, 1, stride, bias=False), nn.BatchNorm2d(out))


def basic_layer(inp: int, width: int, count: int, stride: int = 1) -> nn.Sequential:
    """`count` Blocks; the last one's ReLU is left to what follows."""
    blocks = [
        Block(width if i else inp, width, 1 if i else stride, act=i < count - 1 or count == 1) for i in range(count)
    ]
    return nn.Sequential(*blocks)


def stem(width: int) -> nn.Sequential:
    """Two strided 3x3 convolutions, with biases as published."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
    )  # fmt: skip


def squeezed(inp: int, out: int, kernel: int = 1) -> nn.Sequential:
    """Convolution and norm, no activation."""
    return nn.Sequential(nn.Conv2d(inp, out, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(out))


def preactivated(inp: int, out: int, kernel: int = 1, groups: int = 1) -> list[nn.Module]:
    """Norm, ReLU, convolution."""
    return [
        nn.BatchNorm2d(inp),
        nn.ReLU(inplace=True),
        nn.Conv2d(inp, out, kernel, padding=kernel // 2, groups=groups, bias=False),
    ]


class PyramidInputs(nn.Module):
    """The pooled branches of DAPPM and PAPPM: means over 5x5, 9x9, 17x17 fields and the whole map, each to `width`."""

    def __init__(self, inp: int, width: int, out: int) -> None:
        super().__init__()
        self.scale0 = nn.Sequential(*preactivated(inp, width))
        self.scale1 = nn.Sequential(nn.AvgPool2d(5, 2, 2), *preactivated(inp, width))
        self.scale2 = nn.Sequential(nn.AvgPool2d(9, 4, 4), *preactivated(inp, width))
        self.scale3 = nn.Sequential(nn.AvgPool2d(17, 8, 8), *preactivated(inp, width))
        self.scale4 = nn.Sequential(nn.AdaptiveAvgPool2d(1), *preactivated(inp, width))
        self.compression = nn.Sequential(*preactivated(5 * width, out))
        self.shortcut = nn.Sequential(*preactivated(inp, out))

    def pooled(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The four pooled branches at the size of `x`."""
        return [resize(scale(x), x) for scale in (self.scale1, self.scale2, self.scale3, self.scale4)]


class DAPPM(PyramidInputs):
    """Deep aggregation pyramid pooling: each scale is added to what came of the finer one."""

    def __init__(self, inp: int, width: int, out: int) -> None:
        super().__init__(inp, width, out)
        self.process1 = nn.Sequential(*preactivated(width, width, 3))
        self.process2 = nn.Sequential(*preactivated(width, width, 3))
        self.process3 = nn.Sequential(*preactivated(width, width, 3))
        self.process4 = nn.Sequential(*preactivated(width, width, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = [self.scale0(x)]
        steps = (self.process1, self.process2, self.process3, self.process4)
        for process, scale in zip(steps, self.pooled(x), strict=True):
            found.append(process(scale + found[-1]))
        return self.compression(torch.cat(found, dim=1)) + self.shortcut(x)


class SegHead(nn.Module):
    """Norm, ReLU, 3x3 convolution, norm, ReLU, 1x1 convolution to the classes."""

    def __init__(self, inp: int, width: int, classes: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inp)
        self.conv1 = nn.Conv2d(inp, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))


class DDRNet(nn.Module):
    """(B, 3, H, W) normalised images to {"out": (B, K, H, W)[, "aux": …]} logits.

    Args:
        width: channels of the stem (32: slim); the high-resolution branch has 2x, the other up to 16x.
        pool, head: channels of the pyramid's branches and of the heads.
        aux: with the auxiliary head on the high-resolution branch (training only).
    """

    def __init__(self, classes: int, width: Width = 32, pool: Width = 128, head: Width = 64, aux: bool = True) -> None:
        super().__init__()
        w, high = width, 2 * width
        self.conv1 = stem(w)
        self.layer1 = basic_layer(w, w, 2)
        self.layer2 = basic_layer(w, 2 * w, 2, 2)
        self.layer3 = basic_layer(2 * w, 4 * w, 2, 2)
        self.layer4 = basic_layer(4 * w, 8 * w, 2, 2)
        self.compression3, self.compression4 = squeezed(4 * w, high), squeezed(8 * w, high)
        self.down3 = nn.Sequential(nn.Conv2d(high, 4 * w, 3, 2, 1, bias=False), nn.BatchNorm2d(4 * w))
        self.down4 = nn.Sequential(
            nn.Conv2d(high, 4 * w, 3, 2, 1, bias=False), nn.BatchNorm2d(4 * w), nn.ReLU(inplace=True),
            nn.Conv2d(4 * w, 8 * w, 3, 2, 1, bias=False), nn.BatchNorm2d(8 * w),
        )  # fmt: skip
        self.layer3_, self.layer4_ = basic_layer(2 * w, high, 2), basic_layer(high, high, 2)
        self.layer5_ = nn.Sequential(Narrow(high, high))
        self.layer5 = nn.Sequential(Narrow(8 * w, 8 * w, 2))
        self.spp = DAPPM(16 * w, pool, 4 * w)
        self.seghead_extra = SegHead(high, head, classes) if aux else None
        self.final_layer = SegHead(4 * w, head, classes)
        initialise(self)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        size = x.shape[-2:]
        at8 = F.relu(self.layer2(F.relu(self.layer1(self.conv1(x)))))
        low, high = self.layer3(at8), self.layer3_(at8)
        met = self.compression3(F.relu(low))
        low = low + self.down3(F.relu(high))
        high = high + resize(met, high)
        middle = high
        low = self.layer4(F.relu(low))
        met = self.compression4(F.relu(low))
        high = self.layer4_(F.relu(high))
        low = low + self.down4(F.relu(high))
        high = high + resize(met, high)
        high = self.layer5_(F.relu(high))
        low = self.spp(self.layer5(F.relu(low)))
        out = {"out": self.final_layer(high + resize(low, high))}
        if self.seghead_extra is not None:
            out["aux"] = self.seghead_extra(middle)
        return {k: F.interpolate(v, size=size, mode="bilinear", align_corners=False) for k, v in out.items()}

    def rename(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Published checkpoints may hold the trainer, with the network under "model."."""
        return without_trainer(tensors)


def without_trainer(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What is below "model." where there is such a thing; the losses' weights beside it are left out."""
    if not any(k.startswith("model.") for k in tensors):
        return tensors
    return {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}


def resize(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """`x` at the size of `like`, bilinear."""
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


def initialise(net: nn.Module) -> None:
    """He's initialisation by fan out of every convolution."""
    for m in net.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
