"""SSD (Liu et al., ECCV 2016, arXiv 1512.02325) on a ResNet: a convolutional head on maps of falling resolution.

Maps of strides 8, 16 and 32 are the ResNet's layer2 to layer4, two more come from strided convolutions. As in RetinaNet (Lin et
al., ICCV 2017) classes are independent sigmoids learnt by focal loss, so there is no background class; there is no feature
pyramid. Not the paper's VGG-16 network, and none of its numbers are claimed.
"""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import nn

from edgeprune.models.boxes import grid_anchors
from edgeprune.models.ranges import Factor, Width, Widths
from edgeprune.models.resnet import ResNet

_RARE = 0.01  # the probability of a class at the start (RetinaNet)


def _conv(inp: int, out: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    layers = [nn.Conv2d(inp, out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
    return layers


def _answer(inp: int, shapes: int, classes: int) -> nn.Conv2d:
    """K logits and 4 offsets an anchor; at the start every class is rare."""
    bias = torch.zeros(shapes, classes + 4)
    bias[:, :classes] = -math.log((1 - _RARE) / _RARE)
    made = nn.Conv2d(inp, bias.numel(), 3, padding=1)
    nn.init.normal_(made.weight, std=0.01)
    made.bias = nn.Parameter(bias.flatten())
    return made


class SSD(nn.Module):
    """(B, 3, H, W) normalised images to (B, N, K + 4): class logits and box offsets of every anchor.

    Args:
        depth, width: of the ResNet.
        extra: channels of the maps of stride 64, 128, …
        head: channels of each map's 3x3 convolution before its answers.
        ratios: heights over widths of the anchors; each comes at one octave, and the squares half an octave larger, too.
        scale: an anchor's side over its map's stride.
    """

    def __init__(
        self, classes: int, depth: Factor = 18, width: Width = 64, extra: Widths = (256, 128), head: Width = 128,
        ratios: Annotated[tuple[float, ...], Field(max_length=20)] = (0.5, 1.0, 2.0), scale: float = 4.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.shapes = [(float(r), 0.0) for r in ratios] + [(1.0, 0.5)]
        self.scale, self.strides = float(scale), [8 * 2**n for n in range(3 + len(extra))]
        self.backbone = ResNet(depth, output_stride=32, width=width)
        high = self.backbone.channels["high"]
        widths = [high // 4, high // 2, high, *extra]
        self.extra = nn.ModuleList(nn.Sequential(*_conv(a, b, 3, 2)) for a, b in zip(widths[2:], extra, strict=False))
        self.heads = nn.ModuleList(nn.Sequential(*_conv(w, head, 3)) for w in widths)
        self.answers = nn.ModuleList(_answer(head, len(self.shapes), classes) for _ in widths)
        self.outputs = classes + 4

    def anchors(self, size: tuple[int, int]) -> np.ndarray:
        """(N, 4) anchors of an image of (H, W), in the order of the answers."""
        return grid_anchors(size, self.strides, self.shapes, self.scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b = self.backbone
        x, maps = b.stages[0](b.maxpool(b.relu(b.bn1(b.conv1(x))))), []
        for stage in [*b.stages[1:], *self.extra]:
            x = stage(x)
            maps.append(x)
        found = [answer(head(m)) for answer, head, m in zip(self.answers, self.heads, maps, strict=True)]
        return torch.cat([f.permute(0, 2, 3, 1).reshape(f.shape[0], -1, self.outputs) for f in found], dim=1)
