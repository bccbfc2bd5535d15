"""How far two answers lie apart, relative to the values themselves."""

from __future__ import annotations

from collections.abc import Sequence

import torch

_LEAST = 1e-6  # what a difference is at least divided by: an answer of zeros has no scale of its own


def apart(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference, divided by the largest finite value of `wanted`; infinite where shapes differ.

    Infinities are like themselves (-inf masks a class), and NaN is like NaN.
    """
    if found.shape != wanted.shape:
        return float("inf")
    if not wanted.numel():
        return 0.0
    found, wanted = found.detach().double(), wanted.detach().double()
    same = (found == wanted) | (found.isnan() & wanted.isnan())
    worst = (found - wanted).abs().masked_fill(same, 0.0).nan_to_num(nan=float("inf"), posinf=float("inf")).max()
    scale = wanted.abs().masked_fill(~wanted.isfinite(), 0.0).max()
    return float(worst / scale.clamp_min(_LEAST))


def farthest(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> float:
    """The largest `apart` of several pairs; infinite where there are more of the one than of the other."""
    if len(found) != len(wanted):
        return float("inf")
    return max((apart(a, b) for a, b in zip(found, wanted, strict=True)), default=0.0)
