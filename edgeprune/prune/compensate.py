"""Let the channels that stay stand in for those that go: what a layer read of a removed channel, it reads of the kept ones.

Before the cut, every input channel that is to go is predicted from those that stay (linearly, with a constant, by ridge
regression over calibration images), and the layer's weights take the prediction in: W[:, kept] += W[:, gone] A. For 1x1
convolutions that is the least-squares reconstruction of the layer's output of He, Zhang and Sun (ICCV 2017, Eq. 4, second step); that it
is done on the inputs, the same for every tap of a larger kernel, and for all layers at once with the dense network's maps, is ours. What a
redundancy criterion says ("others can stand in for this channel") is thereby done.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from edgeprune.models.modes import evaluating
from edgeprune.prune.channels import ChannelGraph, Group
from edgeprune.prune.plan import Plan
from edgeprune.prune.surgery import absorb, removed_inputs, response

RIDGE = 1e-2  # of the mean variance of the kept channels; and as much more as there are channels for each position seen
# of each image's map, at random: every so many would be columns of a map whose width is a power of two
WIDEST = 4096  # inputs of a layer that is compensated
POSITIONS = 1024


@dataclass
class Moments:
    """Of a layer's input channels (C,): how many positions were seen, their sums, their products' sums (C, C)."""

    count: int
    total: torch.Tensor
    products: torch.Tensor

    def covariance(self) -> torch.Tensor:
        """(C, C)."""
        mean = self.total / self.count
        return self.products / self.count - torch.outer(mean, mean)

    def ridged(self, covariance: torch.Tensor) -> torch.Tensor:
        """A (C, C) part of it that can be inverted."""
        ridge = (RIDGE + len(covariance) / self.count) * covariance.diagonal().mean() + 1e-12
        return covariance + torch.eye(len(covariance), dtype=covariance.dtype) * ridge

    def affine(self, gone: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """(A, b): removed = A kept + b, (removed, kept) and (removed,)."""
        mean, covariance = self.total / self.count, self.covariance()
        out, stay = torch.from_numpy(np.flatnonzero(gone)), torch.from_numpy(np.flatnonzero(~gone))
        a = torch.linalg.solve(self.ridged(covariance[stay][:, stay]), covariance[stay][:, out]).T
        return a, mean[out] - a @ mean[stay]


def moments(net: nn.Module, graph: ChannelGraph, batches: Iterable[torch.Tensor]) -> dict[str, Moments]:
    """Layer -> moments of what it reads, for every ungrouped layer that mixes prunable channels.

    Args:
        net: in evaluation mode while they are taken; it comes out in the mode in which it came.
        batches: (B, 3, H, W) normalised, on the network's device.
    """
    found, hooks = watch(net, readers(net, graph.groups))
    try:
        with evaluating(net), torch.no_grad():
            for images in batches:
                net(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def watch(net: nn.Module, names: Iterable[str]) -> tuple[dict[str, Moments], list[Any]]:
    """(layer -> moments of what it reads from now on, the hooks that take them)."""
    found: dict[str, Moments] = {}
    generator = torch.Generator().manual_seed(0)

    def before(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[torch.Tensor, ...], named: dict[str, torch.Tensor]) -> None:
            x = (args[0] if args else named["input"]).detach()
            flat = x.movedim(-1 if isinstance(module, nn.Linear) else 1, 0).flatten(1)
            if (count := POSITIONS * len(x)) < flat.shape[1]:
                flat = flat[:, torch.randint(flat.shape[1], (count,), generator=generator).to(flat.device)]
            flat = flat.float()
            new = Moments(flat.shape[1], flat.sum(1).double().cpu(), (flat @ flat.T).double().cpu())
            old = found.get(name)
            found[name] = (
                Moments(old.count + new.count, old.total + new.total, old.products + new.products) if old else new
            )

        return hook

    return found, [net.get_submodule(n).register_forward_pre_hook(before(n), with_kwargs=True) for n in sorted(names)]


def readers(net: nn.Module, groups: Iterable[Group]) -> set[str]:
    """Layers that can be compensated: convolutions (also transposed) without groups, and linear layers; none that reads more than
    `WIDEST` channels (a classifier behind a flattened map: one position an image, and moments of gigabytes)."""
    names = {m.module for g in groups for m in g.members if m.kind == "in"}
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    found = {n: m for n in names if isinstance(m := net.get_submodule(n), kinds) and getattr(m, "groups", 1) == 1}
    return {n for n, m in found.items() if (m.in_features if isinstance(m, nn.Linear) else m.in_channels) <= WIDEST}


def compensated(net: nn.Module, graph: ChannelGraph, plan: Plan, known: dict[str, Moments]) -> nn.Module:
    """A full-width copy of `net` whose layers no longer read what the plan removes, but what predicts it.

    The constant goes into the layer's bias or the norm behind it; a layer that has neither does without.
    """
    made = copy.deepcopy(net)
    for name, seen in known.items():
        gone = removed_inputs(net, graph, plan, name)
        if not gone.any() or gone.all():
            continue
        layer = made.get_submodule(name)
        a, b = (t.to(layer.weight) for t in seen.affine(gone))  # type: ignore[arg-type]
        out, stay = torch.from_numpy(np.flatnonzero(gone)), torch.from_numpy(np.flatnonzero(~gone))
        constant = torch.zeros(len(gone)).to(b)
        constant[out] = b
        with torch.no_grad():
            axis = 0 if isinstance(layer, nn.ConvTranspose2d) else 1
            shift = (
                response(layer, constant) if axis else None
            )  # a transposed convolution's answer to it is no constant
            weight = layer.weight.movedim(axis, 0)  # type: ignore[operator]
            weight[stay] += torch.einsum("rk,r...->k...", a, weight[out])
            weight[out] = 0
            if shift is not None:
                absorb(made, graph, name, shift)
    return made
