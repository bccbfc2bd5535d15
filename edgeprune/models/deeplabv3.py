"""DeepLabV3 (Chen et al. 2017, arXiv 1706.05587) and DeepLabV3+ (ECCV 2018) on ResNets; torchvision's key names.

DeepLabV3-R50 with 21 classes and auxiliary head has 42,004,074 parameters, as torchvision counts it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from edgeprune.models.ranges import Factor, Width
from edgeprune.models.resnet import ResNet


def _conv(inp: int, out: int, kernel: int = 1, dilation: int = 1) -> list[nn.Module]:
    pad = dilation * (kernel // 2)
    return [nn.Conv2d(inp, out, kernel, padding=pad, dilation=dilation, bias=False), nn.BatchNorm2d(out), nn.ReLU()]


class ASPPPooling(nn.Sequential):
    """Image-level features: global mean, 1x1 convolution, spread over the map."""

    def __init__(self, inp: int, out: int) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), *_conv(inp, out))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        x, size = input, input.shape[-2:]
        for layer in self:
            x = layer(x)
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling."""

    def __init__(self, inp: int, rates: tuple[int, ...], out: int = 256) -> None:
        super().__init__()
        branches = [nn.Sequential(*_conv(inp, out))]
        branches += [nn.Sequential(*_conv(inp, out, 3, r)) for r in rates]
        self.convs = nn.ModuleList([*branches, ASPPPooling(inp, out)])
        self.project = nn.Sequential(*_conv(len(self.convs) * out, out), nn.Dropout(0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.project(torch.cat([branch(x) for branch in self.convs], dim=1))


def _aux_head(inp: int, classes: int) -> nn.Sequential:
    return nn.Sequential(*_conv(inp, inp // 4, 3), nn.Dropout(0.1), nn.Conv2d(inp // 4, classes, 1))


class DeepLabV3(nn.Module):
    """(B, 3, H, W) normalised images to {"out": (B, K, H, W)[, "aux": …]} logits.

    Args:
        depth, output_stride, width: of the ResNet.
        head: channels of the ASPP (256 in the paper).
        aux: with the auxiliary head on layer3 (training only).
    """

    def __init__(
        self,
        classes: int,
        depth: Factor = 50,
        output_stride: Factor = 8,
        width: Width = 64,
        head: Width = 256,
        aux: bool = True,
    ) -> None:
        super().__init__()
        rates = (12, 24, 36) if output_stride == 8 else (6, 12, 18)
        self.backbone = ResNet(depth, output_stride, width)
        high = self.backbone.channels["high"]
        self.classifier = nn.Sequential(ASPP(high, rates, head), *_conv(head, head, 3), nn.Conv2d(head, classes, 1))
        self.aux_classifier = _aux_head(self.backbone.channels["mid"], classes) if aux else None

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        size, features = x.shape[-2:], self.backbone(x)
        out = {"out": self.classifier(features["high"])}
        if self.aux_classifier is not None:
            out["aux"] = self.aux_classifier(features["mid"])
        return {k: F.interpolate(v, size=size, mode="bilinear", align_corners=False) for k, v in out.items()}


class DeepLabV3Plus(nn.Module):
    """DeepLabV3 with a decoder that joins the stride-4 features (48 channels, then two 3x3 convolutions)."""

    def __init__(
        self,
        classes: int,
        depth: Factor = 50,
        output_stride: Factor = 16,
        width: Width = 64,
        head: Width = 256,
        aux: bool = True,
    ) -> None:
        super().__init__()
        rates = (12, 24, 36) if output_stride == 8 else (6, 12, 18)
        self.backbone = ResNet(depth, output_stride, width)
        channels = self.backbone.channels
        self.aspp = ASPP(channels["high"], rates, head)
        self.low = nn.Sequential(*_conv(channels["low"], 48))
        self.decoder = nn.Sequential(*_conv(head + 48, head, 3), *_conv(head, head, 3))
        self.classifier = nn.Conv2d(head, classes, 1)
        self.aux_classifier = _aux_head(channels["mid"], classes) if aux else None

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        size, features = x.shape[-2:], self.backbone(x)
        low = self.low(features["low"])
        high = F.interpolate(self.aspp(features["high"]), size=low.shape[-2:], mode="bilinear", align_corners=False)
        out = {"out": self.classifier(self.decoder(torch.cat([high, low], dim=1)))}
        if self.aux_classifier is not None:
            out["aux"] = self.aux_classifier(features["mid"])
        return {k: F.interpolate(v, size=size, mode="bilinear", align_corners=False) for k, v in out.items()}
