"""ResNet-18/50/101 as classifiers (He et al., CVPR 2016); torchvision's key names.

Parameters with 1,000 classes as torchvision counts them: 11,689,512, 25,557,032 and 44,549,160. `stem="cifar"` is the usual
form for 32x32 images: a 3x3 stem of stride 1 and no pooling; with 10 classes 11,173,962 (18) and 23,520,842 (50).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from edgeprune.models.ranges import Factor, Width
from edgeprune.models.resnet import ResNet


class ResNetClassifier(nn.Module):
    """(B, 3, H, W) normalised images to (B, K) logits.

    Args:
        depth: 18, 50 or 101.
        width: channels of the first stage (64 in the paper).
        stem: "imagenet" (7x7, stride 2, pooling) or "cifar" (3x3).
    """

    def __init__(
        self, classes: int, depth: Factor = 18, width: Width = 64, stem: Literal["imagenet", "cifar"] = "imagenet"
    ) -> None:
        super().__init__()
        if stem not in ("imagenet", "cifar"):
            raise TypeError(f"stem {stem!r} is neither imagenet nor cifar")
        body = ResNet(depth, output_stride=32, width=width)
        self.conv1, self.bn1, self.relu = body.conv1, body.bn1, body.relu
        self.maxpool: nn.Module = body.maxpool
        if stem == "cifar":
            self.conv1, self.maxpool = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.Identity()
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.layer1, self.layer2, self.layer3, self.layer4 = body.stages
        self.fc = nn.Linear(body.channels["high"], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean(dim=(2, 3)))
