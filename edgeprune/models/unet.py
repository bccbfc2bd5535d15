"""U-Net (Ronneberger et al., MICCAI 2015) with padding and batch norm, as milesial/Pytorch-UNet has it and names its keys.

With one class: 31,037,633 parameters with transposed convolutions, 17,262,977 with bilinear resizing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from edgeprune.models.ranges import Widths

WIDTHS = (64, 128, 256, 512, 1024)


class DoubleConv(nn.Module):
    """Two 3x3 convolutions, each with norm and ReLU."""

    def __init__(self, inp: int, out: int, middle: int | None = None) -> None:
        super().__init__()
        middle = middle or out
        self.double_conv = nn.Sequential(
            nn.Conv2d(inp, middle, 3, padding=1, bias=False), nn.BatchNorm2d(middle), nn.ReLU(inplace=True),
            nn.Conv2d(middle, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.double_conv(x)


class Down(nn.Module):
    """Halves the map, then two convolutions."""

    def __init__(self, inp: int, out: int) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(inp, out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.maxpool_conv(x)


class Up(nn.Module):
    """Doubles the map, joins the encoder's, then two convolutions."""

    def __init__(self, inp: int, skip: int, out: int, bilinear: bool) -> None:
        super().__init__()
        if bilinear:
            self.up = nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=True)
            self.conv = DoubleConv(inp + skip, out, (inp + skip) // 2)
        else:
            self.up = nn.ConvTranspose2d(inp, inp // 2, 2, 2)
            self.conv = DoubleConv(inp // 2 + skip, out)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        x = self.up(x)
        rows, columns = skip.shape[-2] - x.shape[-2], skip.shape[-1] - x.shape[-1]
        if rows or columns:  # an odd side lost a row when it was halved
            x = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        return self.conv(torch.cat([skip, x], dim=1))


class UNet(nn.Module):
    """(B, 3, H, W) normalised images to (B, K, H, W) logits.

    Args:
        widths: channels of the five stages, each twice the one before it.
        bilinear: resize instead of transposed convolutions; the deepest stage is then half as wide.
    """

    def __init__(self, classes: int, widths: Widths = WIDTHS, bilinear: bool = False) -> None:
        super().__init__()
        share = 2 if bilinear else 1
        outs = [*widths[:-1], widths[-1] // share]
        self.inc = DoubleConv(3, outs[0])
        for number in range(1, len(outs)):
            setattr(self, f"down{number}", Down(outs[number - 1], outs[number]))
        self.depth, inp = len(outs) - 1, outs[-1]
        for number in range(1, self.depth + 1):
            skip = outs[-1 - number]
            out = skip // share if number < self.depth else skip
            setattr(self, f"up{number}", Up(inp, skip, out, bilinear))
            inp = out
        self.outc = nn.Module()
        self.outc.conv = nn.Conv2d(inp, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = [self.inc(x)]
        for number in range(1, self.depth + 1):
            found.append(self.get_submodule(f"down{number}")(found[-1]))
        x = found.pop()
        for number in range(1, self.depth + 1):
            x = self.get_submodule(f"up{number}")(x, found.pop())
        return self.get_submodule("outc.conv")(x)
