"""Pooling with indices and unpooling by plain operators, for the graph that ships.

Runtimes either lack max-pool indices (TensorRT's parser) or run them by slow reference code (OpenVINO). 2x2 pooling splits
into four strided slices; which of them held the first maximum is what the indices say. So unpooling is a product and a
pixel shuffle, and bit-exact, ties included (all-zero windows behind a ReLU tie in every channel).
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn

from edgeprune.models import logits_of


class SlicedPool(nn.Module):
    """(B, C, H, W) to the maxima (B, C, H//2, W//2) and, in the place of indices, where they were (B, C, 4, H//2, W//2)."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h, w = x.shape[-2] // 2 * 2, x.shape[-1] // 2 * 2
        parts = [x[..., i:h:2, j:w:2] for i in (0, 1) for j in (0, 1)]
        top = torch.maximum(torch.maximum(parts[0], parts[1]), torch.maximum(parts[2], parts[3]))
        first, free = [], torch.ones_like(top)
        for part in parts:  # the first maximum in row order, as max_pool2d has it
            here = (part == top).to(x.dtype) * free
            first.append(here)
            free = free - here
        return top, torch.stack(first, dim=2)


class ShuffledUnpool(nn.Module):
    """Puts (B, C, h, w) back to where `SlicedPool` found the maxima; zero elsewhere."""

    def forward(self, x: torch.Tensor, places: torch.Tensor, output_size: torch.Size | None = None) -> torch.Tensor:
        spread = F.pixel_shuffle((x.unsqueeze(2) * places).flatten(1, 2), 2)
        if output_size is None:
            return spread
        rows, columns = output_size[-2] - spread.shape[-2], output_size[-1] - spread.shape[-1]
        return F.pad(spread, (0, columns, 0, rows)) if rows or columns else spread


def without_indices(net: nn.Module, example: torch.Tensor) -> nn.Module:
    """A copy of `net` (in evaluation mode) whose 2x2 pool/unpool pairs need no indices.

    `net` itself where it has none, or where it does more with its indices than hand them on: then the copy fails or gives
    other numbers on noise, and the exporter has to do with the indices.
    """
    if not any(isinstance(m, nn.MaxUnpool2d) for m in net.modules()):
        return net
    plain = copy.deepcopy(net).eval()
    for name, module in list(plain.named_modules()):
        new = _replacement(module)
        if new is not None:
            parent, _, leaf = name.rpartition(".")
            setattr(plain.get_submodule(parent), leaf, new)
    with torch.no_grad():
        noise = torch.randn(example.shape, generator=torch.Generator().manual_seed(0))
        try:
            same = torch.equal(logits_of(plain(noise)), logits_of(net.eval()(noise)))
        except (RuntimeError, TypeError, ValueError):
            return net
    return plain if same else net


def _replacement(module: nn.Module) -> nn.Module | None:
    if isinstance(module, nn.MaxUnpool2d):
        whole = _twos(module.kernel_size) and _twos(module.stride) and module.padding in (0, (0, 0))
        return ShuffledUnpool() if whole else None
    if isinstance(module, nn.MaxPool2d) and module.return_indices:
        whole = (
            _twos(module.kernel_size)
            and _twos(module.stride)
            and module.padding in (0, (0, 0))
            and not module.ceil_mode
        )
        return SlicedPool() if whole and module.dilation in (1, (1, 1)) else None
    return None


def _twos(value: object) -> bool:
    return value in (2, (2, 2))
