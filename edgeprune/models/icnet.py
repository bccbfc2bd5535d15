"""ICNet (Zhao et al., ECCV 2018): a cascade over three scales of the image on a PSPNet-50 of half width.

The deep part sees a quarter of the image's size, the stem and the first stages half of it, three convolutions the whole.
With 19 classes and the auxiliary heads: 12.21 M parameters, as CAP's table counts it. That fixes the reading: the pyramid's
branches are joined (summed, as in ports of the authors' Caffe network, it would have 6.7 M) and a 3x3 to 256 follows.
The key names are our own; there is no published checkpoint of this variant that we know of.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from edgeprune.models.pspnet import BINS, PPM
from edgeprune.models.ranges import Factor, Width
from edgeprune.models.resnet import Bottleneck, bottlenecks


def _conv(inp: int, out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inp, out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)
    )


class CascadeFusion(nn.Module):
    """Brings a coarse map to the size of a finer one, by a dilated 3x3, and adds the two."""

    def __init__(self, coarse: int, fine: int, out: int) -> None:
        super().__init__()
        self.coarse = nn.Sequential(nn.Conv2d(coarse, out, 3, padding=2, dilation=2, bias=False), nn.BatchNorm2d(out))
        self.fine = nn.Sequential(nn.Conv2d(fine, out, 1, bias=False), nn.BatchNorm2d(out))

    def forward(self, coarse: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
        return F.relu(self.coarse(_resize(coarse, fine.shape[-2:])) + self.fine(fine))


class ICNet(nn.Module):
    """(B, 3, H, W) normalised images to {"out": (B, K, H, W)[, "aux16": …, "aux8": …]} logits.

    The auxiliary logits stay at strides 16 and 8 (before the next fusion); the loss resizes them.

    Args:
        depth: 50 or 101, of the half-width ResNet.
        width: its first stage's channels (32; 64 is PSPNet's).
        head: channels behind the pyramid; fusion: of the two fusions.
        detail: channels of the three convolutions on the whole image.
        aux: with the two auxiliary classifiers (training only).
    """

    def __init__(
        self,
        classes: int,
        depth: Factor = 50,
        width: Width = 32,
        head: Width = 256,
        fusion: Width = 128,
        detail: tuple[Width, Width, Width] = (32, 32, 64),
        aux: bool = True,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _conv(3, width, 3, 2), _conv(width, width), _conv(width, 2 * width), nn.MaxPool2d(3, 2, 1)
        )
        inp = 2 * width
        for number, (count, stride, dilation) in enumerate(
            zip(bottlenecks(depth), (1, 2, 1, 1), (1, 1, 2, 4), strict=True)
        ):
            out = width * 2**number
            blocks = [Bottleneck(inp if i == 0 else 4 * out, out, 1 if i else stride, dilation) for i in range(count)]
            setattr(self, f"layer{number + 1}", nn.Sequential(*blocks))
            inp = 4 * out
        self.ppm, self.head = PPM(inp, inp // len(BINS)), _conv(2 * inp, head)
        self.detail = nn.Sequential(
            _conv(3, detail[0], 3, 2), _conv(detail[0], detail[1], 3, 2), _conv(detail[1], detail[2], 3, 2)
        )
        self.fuse2, self.fuse1 = CascadeFusion(head, 8 * width, fusion), CascadeFusion(fusion, detail[2], fusion)
        self.aux16 = nn.Conv2d(head, classes, 1) if aux else None
        self.aux8 = nn.Conv2d(fusion, classes, 1) if aux else None
        self.classifier = nn.Conv2d(fusion, classes, 1)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        size = x.shape[-2:]
        first, *rest = self.get_submodule("layer2").children()
        half = first(self.get_submodule("layer1")(self.stem(_resize(x, _part(x, 2)))))
        quarter = _resize(half, _part(half, 2))
        for block in (*rest, self.get_submodule("layer3"), self.get_submodule("layer4"), self.ppm, self.head):
            quarter = block(quarter)
        middle = self.fuse2(quarter, half)
        fine = self.fuse1(middle, self.detail(x))
        logits = self.classifier(_resize(fine, _part(x, 4)))
        out = {"out": _resize(logits, size)}
        if self.aux16 is not None and self.aux8 is not None:
            half_size = half.shape[-2:]
            out["aux16"] = self.aux16(_resize(quarter, half_size))
            out["aux8"] = self.aux8(_resize(middle, fine.shape[-2:]))
        return out


def _part(x: torch.Tensor, by: int) -> tuple[int, int]:
    """The size of `x` divided, rounded up."""
    return -(-x.shape[-2] // by), -(-x.shape[-1] // by)


def _resize(x: torch.Tensor, size: tuple[int, ...] | torch.Size) -> torch.Tensor:
    return F.interpolate(x, size=list(size), mode="bilinear", align_corners=True)
