"""The smallest network with all that a pipeline must take: strides, a residual sum, a classifier that is upsampled."""

import torch
from torch import nn


def build(classes: int, width: int = 8) -> nn.Module:
    return Tiny(classes, width)


class Tiny(nn.Module):
    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.stem, self.down = _unit(3, width, 2), _unit(width, 2 * width, 2)
        self.block = nn.Sequential(_unit(2 * width, 4 * width), _unit(4 * width, 2 * width))
        self.classifier = nn.Conv2d(2 * width, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.down(self.stem(x))
        logits = self.classifier(y + self.block(y))
        return nn.functional.interpolate(logits, x.shape[-2:], mode="bilinear", align_corners=False)


def _unit(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())
