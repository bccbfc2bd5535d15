"""ERFNet (Romera et al., T-ITS 2018): residual blocks of 3x1 and 1x3 convolutions; Eromera/erfnet_pytorch's key names.

2.06 M parameters with 20 classes, as the released code counts (19 and void).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from edgeprune.models.ranges import Width


class Downsampler(nn.Module):
    """Strided convolution and pooling side by side."""

    def __init__(self, inp: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inp, out - inp, 3, 2, 1)
        self.pool = nn.MaxPool2d(2, 2, ceil_mode=True)  # as the convolution rounds; the same on even sizes
        self.bn = nn.BatchNorm2d(out, eps=1e-3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(torch.cat([self.conv(x), self.pool(x)], dim=1)))


class NonBottleneck1D(nn.Module):
    """Two pairs of 3x1 and 1x3 convolutions, the second dilated, and a sum."""

    def __init__(self, width: int, drop: float, dilation: int) -> None:
        super().__init__()
        d = dilation
        self.conv3x1_1 = nn.Conv2d(width, width, (3, 1), padding=(1, 0))
        self.conv1x3_1 = nn.Conv2d(width, width, (1, 3), padding=(0, 1))
        self.bn1 = nn.BatchNorm2d(width, eps=1e-3)
        self.conv3x1_2 = nn.Conv2d(width, width, (3, 1), padding=(d, 0), dilation=(d, 1))
        self.conv1x3_2 = nn.Conv2d(width, width, (1, 3), padding=(0, d), dilation=(1, d))
        self.bn2 = nn.BatchNorm2d(width, eps=1e-3)
        self.dropout = nn.Dropout2d(drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1x3_1(F.relu(self.conv3x1_1(x)))))
        y = self.bn2(self.conv1x3_2(F.relu(self.conv3x1_2(y))))
        return F.relu(self.dropout(y) + x)


class Upsampler(nn.Module):
    """Transposed convolution to twice the size."""

    def __init__(self, inp: int, out: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(inp, out, 3, 2, 1, output_padding=1)
        self.bn = nn.BatchNorm2d(out, eps=1e-3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(x)))


class Encoder(nn.Module):
    """To stride 8."""

    def __init__(self, widths: tuple[int, int, int]) -> None:
        super().__init__()
        w1, w2, w3 = widths
        self.initial_block = Downsampler(3, w1)
        self.layers = nn.ModuleList([Downsampler(w1, w2)])
        self.layers.extend(NonBottleneck1D(w2, 0.03, 1) for _ in range(5))
        self.layers.append(Downsampler(w2, w3))
        self.layers.extend(NonBottleneck1D(w3, 0.3, d) for d in (2, 4, 8, 16) * 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.initial_block(x)
        for layer in self.layers:
            x = layer(x)
        return x


class Decoder(nn.Module):
    """Back to the input's size."""

    def __init__(self, widths: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        w1, w2, w3 = widths
        self.layers = nn.ModuleList()
        for inp, out in ((w3, w2), (w2, w1)):
            self.layers.extend([Upsampler(inp, out), NonBottleneck1D(out, 0, 1), NonBottleneck1D(out, 0, 1)])
        self.output_conv = nn.ConvTranspose2d(w1, classes, 2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.output_conv(x)


class ERFNet(nn.Module):
    """(B, 3, H, W) normalised images to (B, K, H, W) logits. Sizes that 8 does not divide are cut back at the end.

    Args:
        widths: channels at strides 2, 4 and 8.
    """

    def __init__(self, classes: int, widths: tuple[Width, Width, Width] = (16, 64, 128)) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(widths), Decoder(widths, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, w = x.shape[-2:]
        return self.decoder(self.encoder(x))[..., :h, :w]

    def rename(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The published checkpoints hold the classifier that trained the encoder alone; it is left out."""
        return {k: v for k, v in tensors.items() if not k.startswith("encoder.output_conv.")}
