"""Adaptive average pooling by slices, for the graph that ships.

Where the bins do not divide the map, PyTorch's exporter gathers every bin's window: copies of the whole map, by operators
that engines run slowly or not at all. The mean over a rectangle is the mean over its rows of the means over its columns, so
slices, means and joins do, and the map is read once.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn


class SplitPool(nn.Module):
    """`nn.AdaptiveAvgPool2d(bins)` of (B, C, H, W), bins (rows, columns)."""

    def __init__(self, bins: tuple[int, int]) -> None:
        super().__init__()
        self.bins = bins

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if all(side % n == 0 for side, n in zip(x.shape[-2:], self.bins, strict=True)):
            return F.adaptive_avg_pool2d(x, self.bins)
        return _means(_means(x, 2, self.bins[0]), 3, self.bins[1])


def _means(x: torch.Tensor, axis: int, bins: int) -> torch.Tensor:
    side = x.shape[axis]
    bounds = [(i * side // bins, -(-(i + 1) * side // bins)) for i in range(bins)]
    parts = [x.narrow(axis, start, end - start).mean(dim=axis, keepdim=True) for start, end in bounds]
    return torch.cat(parts, dim=axis)


def with_split_pools(net: nn.Module) -> nn.Module:
    """A copy of `net` whose adaptive average pools are `SplitPool`s; `net` itself where it has none of several bins."""
    found = {name: bins for name, m in net.named_modules() if (bins := _bins(m)) is not None}
    if not found:
        return net
    plain = copy.deepcopy(net)
    for name, bins in found.items():
        parent, _, leaf = name.rpartition(".")
        setattr(plain.get_submodule(parent), leaf, SplitPool(bins))
    return plain


def _bins(module: nn.Module) -> tuple[int, int] | None:
    if not isinstance(module, nn.AdaptiveAvgPool2d):
        return None
    size = module.output_size
    rows, columns = (size, size) if isinstance(size, int) else size or (None, None)
    return (rows, columns) if rows and columns and max(rows, columns) > 1 else None
