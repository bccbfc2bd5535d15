"""BiSeNetV2 (Yu et al., IJCV 2021): a wide shallow detail branch, a deep narrow semantic one; CoinCheung/BiSeNet's key names.

With 19 classes: 3.36 M parameters, and another 1.87 M in the four auxiliary heads of training.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from edgeprune.models.ranges import Width


class ConvBNReLU(nn.Module):
    """Convolution, norm, ReLU."""

    def __init__(self, inp: int, out: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inp, out, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(x)))


def _conv(inp: int, out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inp, out, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(out)]


class Detail(nn.Module):
    """Three stages of 3x3 convolutions to stride 8."""

    def __init__(self, width: int) -> None:
        super().__init__()
        w = width
        self.S1 = nn.Sequential(ConvBNReLU(3, w, 3, 2), ConvBNReLU(w, w))
        self.S2 = nn.Sequential(ConvBNReLU(w, w, 3, 2), ConvBNReLU(w, w), ConvBNReLU(w, w))
        self.S3 = nn.Sequential(ConvBNReLU(w, 2 * w, 3, 2), ConvBNReLU(2 * w, 2 * w), ConvBNReLU(2 * w, 2 * w))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.S3(self.S2(self.S1(x)))


class Stem(nn.Module):
    """To stride 4 by strided convolution and pooling side by side."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = ConvBNReLU(3, width, 3, 2)
        self.left = nn.Sequential(ConvBNReLU(width, width // 2, 1), ConvBNReLU(width // 2, width, 3, 2))
        self.right = nn.MaxPool2d(3, 2, 1)
        self.fuse = ConvBNReLU(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return self.fuse(torch.cat([self.left(x), self.right(x)], dim=1))


class Gather(nn.Module):
    """Gather-and-expansion layer: 3x3, depthwise to `expand` times the width, 1x1 back, sum."""

    def __init__(self, width: int, expand: int = 6) -> None:
        super().__init__()
        inner = width * expand
        self.conv1 = ConvBNReLU(width, width)
        self.dwconv = nn.Sequential(*_conv(width, inner, groups=width), nn.ReLU(inplace=True))
        self.conv2 = nn.Sequential(*_conv(inner, width, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.conv2(self.dwconv(self.conv1(x))) + x)


class GatherDown(nn.Module):
    """The same at stride 2, with two depthwise convolutions and a separable shortcut."""

    def __init__(self, inp: int, out: int, expand: int = 6) -> None:
        super().__init__()
        inner = inp * expand
        self.conv1 = ConvBNReLU(inp, inp)
        self.dwconv1 = nn.Sequential(*_conv(inp, inner, 3, 2, groups=inp))
        self.dwconv2 = nn.Sequential(*_conv(inner, inner, groups=inner), nn.ReLU(inplace=True))
        self.conv2 = nn.Sequential(*_conv(inner, out, 1))
        self.shortcut = nn.Sequential(*_conv(inp, inp, 3, 2, groups=inp), *_conv(inp, out, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.conv2(self.dwconv2(self.dwconv1(self.conv1(x)))) + self.shortcut(x))


class Context(nn.Module):
    """Adds the mean over the whole image to every place."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(width)
        self.conv_gap, self.conv_last = ConvBNReLU(width, width, 1), ConvBNReLU(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv_last(self.conv_gap(self.bn(x.mean(dim=(2, 3), keepdim=True))) + x)


class Semantic(nn.Module):
    """Stages to stride 32; gives what each of them found."""

    def __init__(self, width: int) -> None:
        super().__init__()
        w = width
        self.S1S2 = Stem(w)
        self.S3 = nn.Sequential(GatherDown(w, 2 * w), Gather(2 * w))
        self.S4 = nn.Sequential(GatherDown(2 * w, 4 * w), Gather(4 * w))
        self.S5_4 = nn.Sequential(GatherDown(4 * w, 8 * w), *(Gather(8 * w) for _ in range(3)))
        self.S5_5 = Context(8 * w)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        found = []
        for stage in (self.S1S2, self.S3, self.S4, self.S5_4, self.S5_5):
            x = stage(x)
            found.append(x)
        return found


class Aggregation(nn.Module):
    """Bilateral guided aggregation: each branch gates the other, at stride 8 and at stride 32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        w = width
        self.left1 = nn.Sequential(*_conv(w, w, groups=w), nn.Conv2d(w, w, 1, bias=False))
        self.left2 = nn.Sequential(*_conv(w, w, 3, 2), nn.AvgPool2d(3, 2, 1))
        self.right1 = nn.Sequential(*_conv(w, w))
        self.right2 = nn.Sequential(*_conv(w, w, groups=w), nn.Conv2d(w, w, 1, bias=False))
        self.conv = nn.Sequential(*_conv(w, w), nn.ReLU(inplace=True))

    def forward(self, detail: torch.Tensor, semantic: torch.Tensor) -> torch.Tensor:
        size = detail.shape[-2:]
        fine = self.left1(detail) * torch.sigmoid(F.interpolate(self.right1(semantic), size=size))
        coarse = self.left2(detail) * torch.sigmoid(self.right2(semantic))
        return self.conv(fine + F.interpolate(coarse, size=size))


class Head(nn.Module):
    """3x3 convolution and classifier; auxiliary ones have a second 3x3 at twice the size, `inner` channels wide."""

    def __init__(self, inp: int, width: int, classes: int, inner: int = 0) -> None:
        super().__init__()
        self.conv = ConvBNReLU(inp, width)
        self.drop = nn.Dropout(0.1)
        between = nn.Sequential(nn.Upsample(scale_factor=2.0), ConvBNReLU(width, inner)) if inner else nn.Identity()
        self.conv_out = nn.Sequential(between, nn.Conv2d(inner or width, classes, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv_out(self.drop(self.conv(x)))


class BiSeNetV2(nn.Module):
    """(B, 3, H, W) normalised images to {"out": (B, K, H, W)[, "aux2": …, …]} logits.

    The auxiliary logits stay at half their stage's stride; the loss resizes them.

    Args:
        width: channels of the detail branch's first stage (64); it ends with twice as many.
        semantic: channels of the semantic branch's stem (16); it ends with eight times as many, which must be 2 * width.
        head: channels of the head's convolution; aux_head: of the auxiliary heads'.
        aux: with the four auxiliary heads on the semantic branch (training only).
    """

    def __init__(
        self,
        classes: int,
        width: Width = 64,
        semantic: Width = 16,
        head: Width = 1024,
        aux: bool = True,
        aux_head: Width = 128,
    ) -> None:
        super().__init__()
        if 8 * semantic != 2 * width:
            raise TypeError(f"8 * semantic must be 2 * width, not {8 * semantic} and {2 * width}")
        self.detail, self.segment, self.bga = Detail(width), Semantic(semantic), Aggregation(2 * width)
        self.head = Head(2 * width, head, classes)
        self.stages = {"aux2": 0, "aux3": 1, "aux4": 2, "aux5_4": 3} if aux else {}
        for name, number in self.stages.items():
            factor = 4 * 2**number  # its stride; the inner width is its square in the released code
            setattr(self, name, Head(semantic * 2**number, aux_head, classes, inner=factor**2))
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self.segment(x)
        logits = self.head(self.bga(self.detail(x), found[-1]))
        out = {"out": F.interpolate(logits, size=x.shape[-2:], mode="bilinear", align_corners=False)}
        for name, number in self.stages.items():
            out[name] = self.get_submodule(name)(found[number])
        return out
