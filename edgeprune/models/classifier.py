"""ResNet-18/50/101 as classifiers (He et al., CVPR 2016); torchvision's key names.

Parameters with 1,000 classes as torchvision counts them: 11,689,512, 25,557,032 and 44,549,160. `stem="cifar"` is the usual
form for 32x32 images: a 3x3 stem of stride 1 and no pooling; with 10 classes 11,173,962 (18) and 23,520,842 (50).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from edgeprune.models.resnet import ResNet


class ResNetClassifier(nn.Module):
    """(B, 3, H, W) normalised images to (B, K) logits.

    Args:
        depth: 18, 50 or 101.
        width: channels of the first stage (64 in the paper).
        stem: "imagenet" (7x7, stride 2, pooling) or "cifar" (3x3).
    """

    def __init__(
        self, classes: int, depth: int = 18, width: int = 64, stem: Literal["imagenet", "cifar"] = "imagenet"
    ) -> None:
        super().__init__()
        body = ResNet(depth, output_stride=32, width=width)
        if stem == "cifar":
            body.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
            nn.init.kaiming_normal_(body.conv1.weight, mode="fan_out", nonlinearity="relu")
            body.maxpool = nn.Identity()
        elif stem != "imagenet":
            raise TypeError(f"stem {stem!r} is neither imagenet nor cifar")
        for name, part in body.named_children():  # under torchvision's names, without a prefix
            self.add_module(name, part)
        self.fc = nn.Linear(body.channels["high"], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
        return self.fc(x.mean(dim=(2, 3)))
