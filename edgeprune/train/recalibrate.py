"""Recalibration: the batch norms' statistics anew, from training batches, no weight moved."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgeprune.models.modes import evaluating, modes_kept
from edgeprune.progress import doing


@doing("recalibrating the norms")
def recalibrate(
    net: nn.Module, batches: Iterable[tuple[Any, ...]], count: int, only: Collection[str] | None = None
) -> None:
    """Running mean and variance as the plain mean over `count` batches; modes and momenta are restored.

    Norms that are frozen (weights without gradient) or that the network's own `train()` keeps in evaluation stay as they are.

    Args:
        only: names of the norms that need new statistics (`disturbed`); None: all of them.
    """
    moving = adapting(net) if only is None else adapting(net) & set(only)
    norms = [m for name, m in net.named_modules() if name in moving and isinstance(m, _BatchNorm)]
    if not norms:
        return
    momenta, device = [m.momentum for m in norms], next(net.parameters()).device
    with evaluating(net):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # cumulative mean
            norm.train()
        try:
            with torch.no_grad():
                for images, *_ in islice(batches, count):
                    net(images.to(device))
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum


def adapting(net: nn.Module) -> set[str]:
    """Names of the batch norms whose statistics training moves: neither frozen nor kept in evaluation by the network's own `train()`."""
    with modes_kept(net):
        return {
            name
            for name, m in net.train().named_modules()
            if isinstance(m, _BatchNorm)
            and m.training
            and m.track_running_stats
            and (not m.affine or any(p.requires_grad for p in m.parameters()))
        }


def disturbed(before: nn.Module, after: nn.Module, example: torch.Tensor) -> list[str]:
    """Names of the norms that read something else in `after` than in `before`: those behind what was cut.

    Args:
        before, after: a network, and the same one after a cut.
        example: (B, 3, H, W), whose shape noise gets.
    """
    noise = torch.randn(example.shape, generator=torch.Generator().manual_seed(0))
    was, now = _read(before, noise), _read(after, noise)
    return [
        name
        for name, means in now.items()
        if name not in was
        or means.shape != was[name].shape
        or not torch.allclose(means, was[name], rtol=1e-5, atol=1e-7, equal_nan=True)
    ]


def _read(net: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Norm -> means and mean squares of the channels that it reads, one row after the other."""
    found: dict[str, list[torch.Tensor]] = {}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[torch.Tensor, ...], named: dict[str, torch.Tensor]) -> None:
            flat = (args[0] if args else named["input"]).detach().transpose(0, 1).flatten(1).double()
            found.setdefault(name, []).append(torch.stack([flat.mean(1), flat.square().mean(1)]))

        return hook

    hooks = [
        m.register_forward_pre_hook(watch(n), with_kwargs=True)
        for n, m in net.named_modules()
        if isinstance(m, _BatchNorm)
    ]
    try:
        with evaluating(net), torch.no_grad():
            net(images.to(next(net.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: torch.cat(rows) for name, rows in found.items()}
