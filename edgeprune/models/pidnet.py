"""PIDNet-S (Xu et al., CVPR 2023): detail, context and boundary branches; XuJiacong/PIDNet's key names.

7.6 M parameters with 19 classes and without auxiliary head. The published training also has a head for the boundaries with
a loss of its own; that head is left out here, so its loss is not reproduced.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from edgeprune.models.ddrnet import (
    Block,
    Narrow,
    PyramidInputs,
    SegHead,
    basic_layer,
    initialise,
    preactivated,
    resize,
    squeezed,
    stem,
    without_trainer,
)
from edgeprune.models.ranges import Width


class PAPPM(PyramidInputs):
    """Pyramid pooling whose scales are processed side by side by one grouped convolution."""

    def __init__(self, inp: int, width: int, out: int) -> None:
        super().__init__(inp, width, out)
        self.scale_process = nn.Sequential(*preactivated(4 * width, 4 * width, 3, groups=4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        finest = self.scale0(x)
        scales = self.scale_process(torch.cat([scale + finest for scale in self.pooled(x)], dim=1))
        return self.compression(torch.cat([finest, scales], dim=1)) + self.shortcut(x)


class Pag(nn.Module):
    """Pixel attention: takes from `y` where both agree (sigmoid of the dot product of two embeddings), else from `x`."""

    def __init__(self, inp: int, width: int) -> None:
        super().__init__()
        self.f_x, self.f_y = squeezed(inp, width), squeezed(inp, width)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        alike = torch.sigmoid((self.f_x(x) * resize(self.f_y(y), x)).sum(dim=1, keepdim=True))
        return (1 - alike) * x + alike * resize(y, x)


class LightBag(nn.Module):
    """Joins detail and context, the boundary deciding which counts where."""

    def __init__(self, inp: int, out: int) -> None:
        super().__init__()
        self.conv_p, self.conv_i = squeezed(inp, out), squeezed(inp, out)

    def forward(self, detail: torch.Tensor, context: torch.Tensor, boundary: torch.Tensor) -> torch.Tensor:
        edge = torch.sigmoid(boundary)
        return self.conv_p((1 - edge) * context + detail) + self.conv_i(context + edge * detail)


class PIDNet(nn.Module):
    """(B, 3, H, W) normalised images to {"out": (B, K, H, W)[, "aux": …]} logits.

    Args:
        width: channels of the stem (32: S); the branches have up to 16 times as many.
        pool, head: channels of the pyramid's branches and of the heads.
        aux: with the auxiliary head on the detail branch (training only).
    """

    def __init__(self, classes: int, width: Width = 32, pool: Width = 96, head: Width = 128, aux: bool = True) -> None:
        super().__init__()
        w = width
        self.conv1 = stem(w)
        self.layer1 = basic_layer(w, w, 2)
        self.layer2 = basic_layer(w, 2 * w, 2, 2)
        self.layer3 = basic_layer(2 * w, 4 * w, 3, 2)
        self.layer4 = basic_layer(4 * w, 8 * w, 3, 2)
        self.layer5 = nn.Sequential(Narrow(8 * w, 8 * w, 2), Narrow(16 * w, 8 * w))
        self.compression3, self.compression4 = squeezed(4 * w, 2 * w), squeezed(8 * w, 2 * w)
        self.pag3, self.pag4 = Pag(2 * w, w), Pag(2 * w, w)
        self.layer3_, self.layer4_ = basic_layer(2 * w, 2 * w, 2), basic_layer(2 * w, 2 * w, 2)
        self.layer5_ = nn.Sequential(Narrow(2 * w, 2 * w))
        self.layer3_d = Block(2 * w, w, act=False)
        self.layer4_d = nn.Sequential(Narrow(w, w))
        self.layer5_d = nn.Sequential(Narrow(2 * w, 2 * w))
        self.diff3, self.diff4 = squeezed(4 * w, w, 3), squeezed(8 * w, 2 * w, 3)
        self.spp = PAPPM(16 * w, pool, 4 * w)
        self.dfm = LightBag(4 * w, 4 * w)
        self.seghead_p = SegHead(2 * w, head, classes) if aux else None
        self.final_layer = SegHead(4 * w, head, classes)
        initialise(self)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        size = x.shape[-2:]
        x = F.relu(self.layer2(F.relu(self.layer1(self.conv1(x)))))
        detail, boundary = self.layer3_(x), self.layer3_d(x)
        x = F.relu(self.layer3(x))
        detail = self.pag3(detail, self.compression3(x))
        boundary = boundary + resize(self.diff3(x), boundary)
        middle = F.relu(detail)
        x = F.relu(self.layer4(x))
        detail, boundary = self.layer4_(middle), self.layer4_d(F.relu(boundary))
        detail = self.pag4(detail, self.compression4(x))
        boundary = boundary + resize(self.diff4(x), boundary)
        detail, boundary = self.layer5_(F.relu(detail)), self.layer5_d(F.relu(boundary))
        context = resize(self.spp(self.layer5(x)), detail)
        out = {"out": self.final_layer(self.dfm(detail, context, boundary))}
        if self.seghead_p is not None:
            out["aux"] = self.seghead_p(middle)
        return {k: F.interpolate(v, size=size, mode="bilinear", align_corners=False) for k, v in out.items()}

    def rename(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Published checkpoints may hold the trainer, and they hold the boundary head, which is left out."""
        return {k: v for k, v in without_trainer(tensors).items() if not k.startswith("seghead_d.")}
