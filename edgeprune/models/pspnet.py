"""PSPNet (Zhao et al., CVPR 2017) on ResNet-50/101 at output stride 8; hszhao/semseg's key names and layout.

The stem is three 3x3 convolutions; every 3x3 of layer3 is dilated by 2 and of layer4 by 4; bilinear resizing aligns the
corners. With 19 classes and semseg's auxiliary head (256 channels): 49.08 M (R50) and 68.07 M (R101) parameters. CAP's
table (51.45 M, 70.44 M) counts an auxiliary head of 512 channels: 51.445 M and 70.437 M with `aux_head=512`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from edgeprune.models.ranges import Factor, Width
from edgeprune.models.resnet import Bottleneck, bottlenecks

BINS = (1, 2, 3, 6)


def _conv(inp: int, out: int, kernel: int = 1, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inp, out, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
    ]


class PPM(nn.Module):
    """Pyramid pooling: means over 1, 4, 9 and 36 fields, a 1x1 convolution each, spread over the map and joined to it."""

    def __init__(self, inp: int, out: int) -> None:
        super().__init__()
        self.features = nn.ModuleList(nn.Sequential(nn.AdaptiveAvgPool2d(n), *_conv(inp, out)) for n in BINS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = x.shape[-2:]
        return torch.cat([x, *(_resize(branch(x), size) for branch in self.features)], dim=1)


class PSPNet(nn.Module):
    """(B, 3, H, W) normalised images to {"out": (B, K, H, W)[, "aux": …]} logits.

    Args:
        depth: 50 or 101.
        width: of the ResNet's first stage; its last has 32 times as many, each branch of the pyramid 8 times.
        head: channels of the last 3x3 convolution.
        aux: with the auxiliary head on layer3 (training only); aux_head: its channels.
    """

    def __init__(
        self,
        classes: int,
        depth: Factor = 50,
        width: Width = 64,
        head: Width = 512,
        aux: bool = True,
        aux_head: Width = 256,
    ) -> None:
        super().__init__()
        self.layer0 = nn.Sequential(
            *_conv(3, width, 3, 2), *_conv(width, width, 3), *_conv(width, 2 * width, 3), nn.MaxPool2d(3, 2, 1)
        )
        inp = 2 * width
        for number, (count, stride, dilation) in enumerate(
            zip(bottlenecks(depth), (1, 2, 1, 1), (1, 1, 2, 4), strict=True)
        ):
            out = width * 2**number
            blocks = [Bottleneck(inp if i == 0 else 4 * out, out, 1 if i else stride, dilation) for i in range(count)]
            setattr(self, f"layer{number + 1}", nn.Sequential(*blocks))
            inp = 4 * out
        self.ppm = PPM(inp, inp // len(BINS))
        self.cls = nn.Sequential(*_conv(2 * inp, head, 3), nn.Dropout2d(0.1), nn.Conv2d(head, classes, 1))
        self.aux = (
            nn.Sequential(*_conv(inp // 2, aux_head, 3), nn.Dropout2d(0.1), nn.Conv2d(aux_head, classes, 1))
            if aux
            else None
        )
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        size = x.shape[-2:]
        for number in range(4):
            x = self.get_submodule(f"layer{number}")(x)
        out = {"out": self.cls(self.ppm(self.get_submodule("layer4")(x)))}
        if self.aux is not None:
            out["aux"] = self.aux(x)
        return {k: _resize(v, size) for k, v in out.items()}


def _resize(x: torch.Tensor, size: torch.Size) -> torch.Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)
