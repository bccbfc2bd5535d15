"""Evaluation protocols of networks in PyTorch: whole images or sliding windows, at own size, mirrored, at several scales.

What papers give is judged so; the deployed engine has one input size and is judged at that, without any of this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from edgeprune.data.transforms import IMAGENET, Normalisation
from edgeprune.measure.alone import Predict, each_alone
from edgeprune.models import logits_of

Forward = Callable[[torch.Tensor], torch.Tensor]
_MULTIPLE = 32  # sides that a network sees at other sizes than data.size; every network takes them


def predictor(net: nn.Module, cfg: Any, size: tuple[int, int], by: Normalisation = IMAGENET) -> Predict:
    """(B, H, W, 3) uint8 images to (B, H, W) uint8 classes, by the protocol `cfg` (`recipe.Evaluate`).

    Args:
        size: `data.size`, which the network sees in mode whole, and the window of mode slide where `cfg.crop` is None.
        by: how images are normalised.
    """
    views = [(scale, mirrored) for scale in cfg.scales for mirrored in ([False, True] if cfg.flip else [False])]

    def forward(x: torch.Tensor) -> torch.Tensor:
        return _resized(logits_of(net(x)).float(), x.shape[-2:])

    def view(x: torch.Tensor, scale: float, mirrored: bool) -> torch.Tensor:
        small = _resized(x, seen_size((x.shape[-2], x.shape[-1]), scale, cfg, size), antialias=True)
        small = small.flip(-1) if mirrored else small
        if cfg.mode == "slide":
            logits = slide(forward, small, cfg.crop or size, cfg.stride)
        else:
            logits = forward(small)
        logits = _resized(logits.flip(-1) if mirrored else logits, x.shape[-2:])
        return logits.softmax(1) if cfg.average == "probabilities" and len(views) > 1 else logits

    def answer(image: torch.Tensor) -> torch.Tensor:
        total = view(image, *views[0])
        for other in views[1:]:
            total += view(image, *other)
        return total.argmax(1).to(torch.uint8)

    return each_alone(net, by, answer)


def seen_size(image: tuple[int, int], scale: float, cfg: Any, size: tuple[int, int]) -> tuple[int, int]:
    """(H, W) that the network, or the window's walk, sees of an image.

    Whole images at another size than `size` get sides that are multiples of 32 (as mmsegmentation's ResizeToMultiple).
    """
    if cfg.short_side:
        scale *= cfg.short_side / min(image)
    elif cfg.mode == "whole":
        image = size
    if cfg.mode == "slide":
        return max(1, round(image[0] * scale)), max(1, round(image[1] * scale))
    if (image[0] * scale, image[1] * scale) == size:
        return size
    h, w = (max(_MULTIPLE, _MULTIPLE * round(side * scale / _MULTIPLE)) for side in image)
    return h, w


def slide(forward: Forward, x: torch.Tensor, crop: tuple[int, int], stride: tuple[int, int] | None) -> torch.Tensor:
    """(B, K, H, W): the logits of windows, averaged where they overlap; the last window of a row ends at the edge.

    An image smaller than the window is padded below and to the right with mean grey.
    """
    h, w = x.shape[-2:]
    step = stride or (round(crop[0] * 2 / 3), round(crop[1] * 2 / 3))
    x = F.pad(x, (0, max(0, crop[1] - w), 0, max(0, crop[0] - h)))
    total, times = None, x.new_zeros(1, 1, *x.shape[-2:])
    for top in _starts(x.shape[-2], crop[0], step[0]):
        for left in _starts(x.shape[-1], crop[1], step[1]):
            window = np.s_[..., top : top + crop[0], left : left + crop[1]]
            logits = forward(x[window])
            if total is None:
                total = logits.new_zeros(*logits.shape[:2], *x.shape[-2:])
            total[window] += logits
            times[window] += 1
    assert total is not None
    return (total / times)[..., :h, :w]


def _starts(length: int, window: int, step: int) -> list[int]:
    return [*range(0, length - window, max(1, step)), length - window]


def _resized(x: torch.Tensor, size: Any, antialias: bool = False) -> torch.Tensor:
    """Bilinear; images are smoothed first where they shrink, as Pillow does it when they are loaded at data.size."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False, antialias=antialias)
