"""Small versions of every network, for tests; and what makes an untrained one give several classes."""

from typing import Any

import numpy as np
import torch
from torch import nn

from edgeprune import models
from edgeprune.data.transforms import normalised

SMALL: dict[str, dict[str, Any]] = {
    "bisenetv2": {"width": 16, "semantic": 4, "head": 32, "aux_head": 8},
    "ddrnet": {"width": 8, "pool": 16, "head": 16},
    "deeplabv3": {"depth": 18, "width": 8, "head": 16},
    "deeplabv3plus": {"depth": 18, "width": 8, "head": 16},
    "enet": {"widths": (8, 16, 32), "sections": 1},
    "erfnet": {"widths": (8, 16, 32)},
    "fastscnn": {"shallow": (8, 8, 16), "deep": (16, 16, 32), "expand": 2, "head": 16},
    "icnet": {"width": 4, "head": 16, "fusion": 16, "detail": (8, 8, 8)},
    "pidnet": {"width": 8, "pool": 16, "head": 16},
    "pspnet": {"width": 4, "head": 16, "aux_head": 16},
    "segformer": {
        "widths": (8, 16, 20, 32),
        "heads": (1, 2, 5, 8),
        "hidden": (16, 32, 40, 64),
        "depths": (1, 1, 1, 1),
        "decoder": 16,
    },
    "resnet": {"depth": 18, "width": 8, "stem": "cifar"},
    "segnet": {"widths": ((4, 4), (8, 8))},
    "ssd": {"depth": 18, "width": 8, "head": 16, "extra": (16, 8)},
    "streetnet": {"width": 8},
    "unet": {"widths": (4, 8, 16)},
}


class Centred(nn.Module):
    """Takes every class's mean logit over `images` off, else an untrained network gives one class everywhere."""

    shift: torch.Tensor

    def __init__(self, net: nn.Module, images: np.ndarray) -> None:
        super().__init__()
        self.net = net
        with torch.no_grad():
            means = models.logits_of(net(normalised(images))).mean(dim=(0, 2, 3), keepdim=True)
        self.register_buffer("shift", means)

    def forward(self, x):
        result = self.net(x)
        if isinstance(result, dict):
            return {**result, "out": result["out"] - self.shift}
        return result - self.shift
