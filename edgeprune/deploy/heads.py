"""Ways to write the last step, logits to classes, that give the same classes and unlike times on different devices.

Backends run `argmax` as TopK, which is slow on some (a third of a small network's time on a CPU in f32). `chain` keeps a
running maximum and its class, one comparison a class: fast where few classes meet a backend that fuses comparisons. Which
one ships is decided by timing both on the device, behind a convolution and the resize to full size as in the real graph.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn


def argmax(logits: torch.Tensor) -> torch.Tensor:
    """(B, K, H, W) logits to (B, H, W) float32 class numbers; the lowest class wins a tie."""
    return logits.argmax(1).to(torch.float32)


def chain(logits: torch.Tensor) -> torch.Tensor:
    """The same by a running maximum; exact, ties included."""
    best, classes = logits[:, 0], torch.zeros_like(logits[:, 0], dtype=torch.float32)
    for k in range(1, logits.shape[1]):
        more = logits[:, k] > best
        best = torch.maximum(best, logits[:, k])
        classes = torch.where(more, torch.full_like(classes, k), classes)
    return classes


HEADS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"argmax": argmax, "chain": chain}
MOST_CLASSES = 32  # a longer chain is never faster and makes the graph long


class Tail(nn.Module):
    """A stand-in for the end of a network: uint8 images, a convolution to (K, h, w) logits; the head comes behind it."""

    def __init__(self, classes: int, stride: tuple[int, int]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, classes, 3, stride=stride, padding=1)
        self.last = nn.Conv2d(classes, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(F.relu(self.stem(x)))
