"""StreetNet: a small network for street scenes on weak devices; the quickstart's.

A stem to 1/4, three stages of depthwise-separable and plain residual blocks to 1/16, a global context branch, and a
decoder that adds the stride-8 and stride-4 features: the parts of the field's real-time networks (Fast-SCNN, BiSeNet,
DDRNet), each once, so that it holds residual sums, depthwise convolutions, a gate and lateral joins for pruning to respect.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from edgeprune.models.ranges import Repeats, Width


def _conv(inp: int, out: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(inp, out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out),
    ]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if act else nn.Sequential(*layers)


class Residual(nn.Module):
    """Two 3x3 convolutions and a sum."""

    def __init__(self, inp: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(inp, out, stride=stride), _conv(out, out, act=False))
        self.skip = nn.Identity() if inp == out and stride == 1 else _conv(inp, out, 1, stride, act=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.body(x) + self.skip(x))


class Inverted(nn.Module):
    """Widen by 1x1, depthwise 3x3, narrow by 1x1, sum (MobileNetV2's block)."""

    def __init__(self, channels: int, expand: int = 2) -> None:
        super().__init__()
        inner = channels * expand
        self.body = nn.Sequential(
            _conv(channels, inner, 1), _conv(inner, inner, groups=inner), _conv(inner, channels, 1, act=False)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class Context(nn.Module):
    """Scales the channels by what the whole image holds (global pooling, 1x1, sigmoid)."""

    def __init__(self, inp: int, out: int) -> None:
        super().__init__()
        self.conv, self.gate = _conv(inp, out, 1), nn.Conv2d(out, out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return x * torch.sigmoid(self.gate(x.mean(dim=(2, 3), keepdim=True)))


class StreetNet(nn.Module):
    """(B, 3, H, W) normalised images, H and W multiples of 16, to (B, K, H, W) logits.

    Args:
        width: channels at stride 4; 2x at stride 8 and 4x at stride 16.
        blocks: inverted blocks at stride 16.
    """

    def __init__(self, classes: int, width: Width = 32, blocks: Repeats = 3) -> None:
        super().__init__()
        w4, w8, w16 = width, 2 * width, 4 * width
        self.stem = nn.Sequential(_conv(3, width, stride=2), _conv(width, w4, stride=2))
        self.stage4 = Residual(w4, w4)
        self.stage8 = nn.Sequential(Residual(w4, w8, 2), Residual(w8, w8))
        self.stage16 = nn.Sequential(Residual(w8, w16, 2), *(Inverted(w16) for _ in range(blocks)))
        self.context = Context(w16, w8)
        self.lateral8, self.lateral4 = _conv(w8, w8, 1), _conv(w4, w8, 1)
        self.fuse8, self.fuse4 = _conv(w8, w8), _conv(w8, w8)
        self.classifier = nn.Conv2d(w8, classes, 1)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = x.shape[-2:]
        at4 = self.stage4(self.stem(x))
        at8 = self.stage8(at4)
        y = self.context(self.stage16(at8))
        y = self.fuse8(_up(y, at8) + self.lateral8(at8))
        y = self.fuse4(_up(y, at4) + self.lateral4(at4))
        return F.interpolate(self.classifier(y), size=size, mode="bilinear", align_corners=False)


def _up(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)
