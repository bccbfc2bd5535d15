"""SegNet (Badrinarayanan et al., PAMI 2017): VGG16-BN encoder, mirrored decoder, max-unpooling with the pool's indices.

29.45 M parameters (29.4 to 29.5 M depending on the number of classes).
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from edgeprune.models.ranges import Widths

WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def _block(inp: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inp, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(inplace=True))


class SegNet(nn.Module):
    """(B, 3, H, W) normalised images, H and W any size, to (B, K, H, W) logits.

    Args:
        widths: channels of the encoder's convolutions, a tuple a stage; the decoder mirrors them.
    """

    def __init__(self, classes: int, widths: Annotated[tuple[Widths, ...], Field(max_length=20)] = WIDTHS) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        inp = 3
        for stage in widths:
            blocks = []
            for out in stage:
                blocks.append(_block(inp, out))
                inp = out
            self.encoder.append(nn.Sequential(*blocks))
        for number in reversed(range(len(widths))):
            stage = widths[number]
            below = widths[number - 1][-1] if number else stage[0]
            outs = [*reversed(stage[:-1]), below]
            blocks = []
            for out in outs if number else outs[:-1]:
                blocks.append(_block(inp, out))
                inp = out
            self.decoder.append(nn.Sequential(*blocks))
        self.classifier = nn.Conv2d(inp, classes, 3, padding=1)
        self.pool = nn.MaxPool2d(2, 2, return_indices=True)
        self.unpool = nn.MaxUnpool2d(2, 2)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        memory = []
        for stage in self.encoder:
            x = stage(x)
            size = x.shape[-2:]
            x, places = self.pool(x)
            memory.append((places, size))
        for stage, (places, size) in zip(self.decoder, reversed(memory), strict=True):
            x = stage(self.unpool(x, places, output_size=size))
        return self.classifier(x)
