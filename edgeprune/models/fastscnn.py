"""Fast-SCNN (Poudel et al., BMVC 2019): learning to downsample, a deep branch at stride 32, fusion at stride 8.

Key names of Tramac/Fast-SCNN-pytorch. The paper says 1.11 M parameters; with 19 classes and without the auxiliary head this
one has 1.14 M.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from edgeprune.models.pspnet import BINS
from edgeprune.models.ranges import Factor, Width


class Conv(nn.Module):
    """Convolution, norm, ReLU, without padding, as the released code has it."""

    def __init__(self, inp: int, out: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(inp, out, kernel, stride, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class Depthwise(nn.Module):
    """3x3 depthwise convolution, norm, ReLU; with `out`, a 1x1 convolution to so many channels behind it."""

    def __init__(self, inp: int, out: int | None = None, stride: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(inp, inp, 3, stride, 1, groups=inp, bias=False), nn.BatchNorm2d(inp), nn.ReLU(inplace=True)
        ]  # fmt: skip
        if out is not None:
            layers += [nn.Conv2d(inp, out, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class Inverted(nn.Module):
    """MobileNetV2's bottleneck: widen, depthwise, narrow, and a sum where the shapes allow it."""

    def __init__(self, inp: int, out: int, stride: int, expand: int) -> None:
        super().__init__()
        inner = inp * expand
        self.block = nn.Sequential(
            Conv(inp, inner, 1), Depthwise(inner, stride=stride), nn.Conv2d(inner, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )  # fmt: skip
        self.add = stride == 1 and inp == out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.block(x) if self.add else self.block(x)


class Pyramid(nn.Module):
    """PSPNet's pyramid pooling and a 1x1 convolution."""

    def __init__(self, inp: int, out: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = Conv(inp, inp // 4, 1), Conv(inp, inp // 4, 1)
        self.conv3, self.conv4 = Conv(inp, inp // 4, 1), Conv(inp, inp // 4, 1)
        self.out = Conv(2 * inp, out, 1)
        self.pools = nn.ModuleList(nn.AdaptiveAvgPool2d(bins) for bins in BINS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branches = zip(self.pools, (self.conv1, self.conv2, self.conv3, self.conv4), strict=True)
        found = [_resize(conv(pool(x)), x.shape[-2:]) for pool, conv in branches]
        return self.out(torch.cat([x, *found], dim=1))


class Downsample(nn.Module):
    """To stride 8: one convolution and two separable ones."""

    def __init__(self, widths: tuple[int, int, int]) -> None:
        super().__init__()
        self.conv = Conv(3, widths[0], 3, 2)
        self.dsconv1, self.dsconv2 = Depthwise(widths[0], widths[1], 2), Depthwise(widths[1], widths[2], 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dsconv2(self.dsconv1(self.conv(x)))


class Deep(nn.Module):
    """Three stages of three inverted bottlenecks each, to stride 32, and the pyramid."""

    def __init__(self, inp: int, widths: tuple[int, int, int], out: int, expand: int) -> None:
        super().__init__()
        w1, w2, w3 = widths
        self.bottleneck1 = _stage(inp, w1, 2, expand)
        self.bottleneck2 = _stage(w1, w2, 2, expand)
        self.bottleneck3 = _stage(w2, w3, 1, expand)
        self.ppm = Pyramid(w3, out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.ppm(self.bottleneck3(self.bottleneck2(self.bottleneck1(x))))


def _stage(inp: int, out: int, stride: int, expand: int) -> nn.Sequential:
    return nn.Sequential(*(Inverted(out if i else inp, out, 1 if i else stride, expand) for i in range(3)))


class Fusion(nn.Module):
    """Adds the deep branch, resized, to the shallow one."""

    def __init__(self, fine: int, coarse: int, out: int) -> None:
        super().__init__()
        self.dwconv = Depthwise(coarse)
        self.conv_lower_res = nn.Sequential(nn.Conv2d(coarse, out, 1), nn.BatchNorm2d(out))
        self.conv_higher_res = nn.Sequential(nn.Conv2d(fine, out, 1), nn.BatchNorm2d(out))

    def forward(self, fine: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
        coarse = self.conv_lower_res(self.dwconv(_resize(coarse, fine.shape[-2:])))
        return F.relu(self.conv_higher_res(fine) + coarse)


class Classifier(nn.Module):
    """Two separable convolutions and a 1x1 to the classes."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.dsconv1, self.dsconv2 = Depthwise(width, width), Depthwise(width, width)
        self.conv = nn.Sequential(nn.Dropout(0.1), nn.Conv2d(width, classes, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.dsconv2(self.dsconv1(x)))


class FastSCNN(nn.Module):
    """(B, 3, H, W) normalised images to {"out": (B, K, H, W)[, "aux": …]} logits.

    Args:
        shallow: channels of the three convolutions to stride 8.
        deep: channels of the three stages behind them; expand: how much a bottleneck widens.
        head: channels of the fusion and the classifier.
        aux: with the auxiliary head at stride 8 (training only).
    """

    def __init__(
        self,
        classes: int,
        shallow: tuple[Width, Width, Width] = (32, 48, 64),
        deep: tuple[Width, Width, Width] = (64, 96, 128),
        expand: Factor = 6,
        head: Width = 128,
        aux: bool = True,
    ) -> None:
        super().__init__()
        fine = shallow[2]
        self.learning_to_downsample = Downsample(shallow)
        self.global_feature_extractor = Deep(fine, deep, head, expand)
        self.feature_fusion = Fusion(fine, head, head)
        self.classifier = Classifier(head, classes)
        self.auxlayer = (
            nn.Sequential(
                nn.Conv2d(fine, fine // 2, 3, padding=1, bias=False), nn.BatchNorm2d(fine // 2), nn.ReLU(inplace=True),
                nn.Dropout(0.1), nn.Conv2d(fine // 2, classes, 1),
            )
            if aux
            else None
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        size = x.shape[-2:]
        fine = self.learning_to_downsample(x)
        out = {"out": self.classifier(self.feature_fusion(fine, self.global_feature_extractor(fine)))}
        if self.auxlayer is not None:
            out["aux"] = self.auxlayer(fine)
        return {k: _resize(v, size) for k, v in out.items()}


def _resize(x: torch.Tensor, size: torch.Size) -> torch.Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)
