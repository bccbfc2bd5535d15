"""ENet (Paszke et al. 2016, arXiv 1606.02147): bottlenecks with dilated and 5x1/1x5 convolutions, unpooling by indices.

davidtvs/PyTorch-ENet's key names (of its first versions; `rename` takes today's, too) and layout, but with one PReLU slope a
channel, as the paper has it; that project has one slope a layer (at first a block), which `rename` spreads. The paper says 0.37 M parameters; with 19 classes this one has 0.36 M.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from edgeprune.models.ranges import Repeats, Width


def _act(width: int, slopes: bool) -> nn.Module:
    return nn.PReLU(width) if slopes else nn.ReLU()


def _conv(
    inp: int,
    out: int,
    kernel: int | tuple[int, int] = 1,
    stride: int = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int = 1,
    slopes: bool = True,
) -> list[nn.Module]:
    return [
        nn.Conv2d(inp, out, kernel, stride, padding, dilation, bias=False),
        nn.BatchNorm2d(out),
        _act(out, slopes),
    ]


class Initial(nn.Module):
    """Strided convolution beside the pooled image."""

    def __init__(self, out: int) -> None:
        super().__init__()
        self.main_branch = nn.Conv2d(3, out - 3, 3, 2, 1, bias=False)
        self.ext_branch = nn.MaxPool2d(3, 2, 1)
        self.batch_norm = nn.BatchNorm2d(out)
        self.out_prelu = nn.PReLU(out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out_prelu(self.batch_norm(torch.cat([self.main_branch(x), self.ext_branch(x)], dim=1)))


class Regular(nn.Module):
    """Narrow by 1x1, convolve (dilated, or 5x1 and 1x5), widen, sum."""

    def __init__(
        self, width: int, drop: float, dilation: int = 1, asymmetric: bool = False, slopes: bool = True
    ) -> None:
        super().__init__()
        inner = width // 4
        self.ext_conv1 = nn.Sequential(*_conv(width, inner, slopes=slopes))
        if asymmetric:
            self.ext_conv2 = nn.Sequential(
                *_conv(inner, inner, (5, 1), padding=(2, 0), slopes=slopes),
                *_conv(inner, inner, (1, 5), padding=(0, 2), slopes=slopes),
            )
        else:
            self.ext_conv2 = nn.Sequential(*_conv(inner, inner, 3, padding=dilation, dilation=dilation, slopes=slopes))
        self.ext_conv3 = nn.Sequential(*_conv(inner, width, slopes=slopes))
        self.ext_regul = nn.Dropout2d(drop)
        self.out_prelu = _act(width, slopes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out_prelu(x + self.ext_regul(self.ext_conv3(self.ext_conv2(self.ext_conv1(x)))))


class Downsampling(nn.Module):
    """The same at stride 2; the shortcut is pooled and gets zero channels beside it."""

    def __init__(self, inp: int, out: int, drop: float) -> None:
        super().__init__()
        inner = inp // 4
        self.main_max1 = nn.MaxPool2d(2, 2, return_indices=True)
        self.ext_conv1 = nn.Sequential(*_conv(inp, inner, 2, 2))
        self.ext_conv2 = nn.Sequential(*_conv(inner, inner, 3, padding=1))
        self.ext_conv3 = nn.Sequential(*_conv(inner, out))
        self.ext_regul = nn.Dropout2d(drop)
        self.out_prelu = nn.PReLU(out)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        main, places = self.main_max1(x)
        ext = self.ext_regul(self.ext_conv3(self.ext_conv2(self.ext_conv1(x))))
        main = F.pad(main, (0, 0, 0, 0, 0, ext.shape[1] - main.shape[1]))
        return self.out_prelu(main + ext), places


class Upsampling(nn.Module):
    """Back to twice the size: unpooling in the shortcut, a transposed convolution beside it."""

    def __init__(self, inp: int, out: int, drop: float) -> None:
        super().__init__()
        inner = inp // 4
        self.main_conv1 = nn.Sequential(nn.Conv2d(inp, out, 1, bias=False), nn.BatchNorm2d(out))
        self.main_unpool1 = nn.MaxUnpool2d(2)
        self.ext_conv1 = nn.Sequential(*_conv(inp, inner, slopes=False))
        self.ext_tconv1 = nn.ConvTranspose2d(inner, inner, 2, 2, bias=False)
        self.ext_tconv1_bnorm = nn.BatchNorm2d(inner)
        self.ext_conv2 = nn.Sequential(*_conv(inner, out, slopes=False))
        self.ext_regul = nn.Dropout2d(drop)

    def forward(self, x: torch.Tensor, places: torch.Tensor, size: torch.Size) -> torch.Tensor:
        main = self.main_unpool1(self.main_conv1(x), places, output_size=size)
        ext = self.ext_tconv1(self.ext_conv1(x), output_size=list(size))
        return F.relu(main + self.ext_regul(self.ext_conv2(F.relu(self.ext_tconv1_bnorm(ext)))))


class ENet(nn.Module):
    """(B, 3, H, W) normalised images to (B, K, H, W) logits.

    Args:
        widths: channels at strides 2, 4 and 8; a bottleneck's inside has a quarter.
        sections: how often the eight bottlenecks at stride 8 come (2: stages 2 and 3).
    """

    def __init__(self, classes: int, widths: tuple[Width, Width, Width] = (16, 64, 128), sections: Repeats = 2) -> None:
        super().__init__()
        w1, w2, w3 = widths
        self.initial_block = Initial(w1)
        self.downsample1_0 = Downsampling(w1, w2, 0.01)
        self.downsample2_0 = Downsampling(w2, w3, 0.1)
        kinds = [("regular", {}), ("dilated", {"dilation": 2}), ("asymmetric", {"asymmetric": True}),
                 ("dilated", {"dilation": 4}), ("regular", {}), ("dilated", {"dilation": 8}),
                 ("asymmetric", {"asymmetric": True}), ("dilated", {"dilation": 16})]  # fmt: skip
        self.order = {1: [f"regular1_{i}" for i in range(1, 5)], 2: [], 4: ["regular4_1", "regular4_2"]}
        for name in self.order[1]:
            setattr(self, name, Regular(w2, 0.01))
        for section in range(sections):
            for number, (kind, args) in enumerate(kinds, start=0 if section else 1):
                self.order[2].append(f"{kind}{2 + section}_{number}")
                setattr(self, self.order[2][-1], Regular(w3, 0.1, **args))
        self.upsample4_0 = Upsampling(w3, w2, 0.1)
        for name in self.order[4]:
            setattr(self, name, Regular(w2, 0.1, slopes=False))
        self.upsample5_0 = Upsampling(w2, w1, 0.1)
        self.regular5_1 = Regular(w1, 0.1, slopes=False)
        self.transposed_conv = nn.ConvTranspose2d(w1, classes, 3, 2, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = x.shape[-2:]
        x = self.initial_block(x)
        size2 = x.shape[-2:]
        x, places2 = self.downsample1_0(x)
        x = self._through(1, x)
        size4 = x.shape[-2:]
        x, places4 = self.downsample2_0(x)
        x = self._through(2, x)
        x = self._through(4, self.upsample4_0(x, places4, size4))
        x = self.regular5_1(self.upsample5_0(x, places2, size2))
        return self.transposed_conv(x, output_size=list(size))

    def _through(self, stage: int, x: torch.Tensor) -> torch.Tensor:
        for name in self.order[stage]:
            x = self.get_submodule(name)(x)
        return x

    def rename(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Today's names to the first ones; spreads a slope that is shared to all its channels."""
        want = self.state_dict()
        tensors = {k.replace(".out_activation.", ".out_prelu."): v for k, v in tensors.items()}
        return {
            k: v.expand(want[k].shape) if k in want and v.numel() == 1 and want[k].ndim == 1 else v
            for k, v in tensors.items()
        }
