"""What criteria share: from a layer's channels to a group's units, the norms' scales, and the time a criterion takes."""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from edgeprune.prune.channels import Group, Member


class Clock:
    """`with clock:` adds up wall seconds; on a GPU they are those of launching the work, not of doing it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._started


def filters(layer: nn.Module) -> torch.Tensor:
    """(out, rest) weights of a convolution or linear layer, f32 on the host, one row an output channel."""
    weight: torch.Tensor = layer.weight.detach().float().cpu()  # type: ignore[union-attr,operator]
    return (weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else weight).flatten(1)


def over_units(values: np.ndarray, member: Member) -> np.ndarray:
    """(units,) sums of a layer's (channels,) values over the channels of each unit."""
    return values[member.index].reshape(len(member.index), -1).sum(axis=1)


def relative(values: np.ndarray) -> np.ndarray:
    """Values divided by their mean, so that layers can be compared; as they are where the mean is 0."""
    mean = float(values.mean())
    return values / mean if mean > 1e-12 else values


def norms_of(net: nn.Module, groups: Iterable[Group]) -> dict[str, nn.Module]:
    """name -> norm layer with a scale of its own, for every norm in the groups."""
    names = {m.module: None for g in groups for m in g.members if m.kind == "norm"}
    found = {name: net.get_submodule(name) for name in names}
    return {name: norm for name, norm in found.items() if isinstance(norm.weight, nn.Parameter)}


def taps(group: Group) -> list[Member]:
    """Where a group's maps are watched: its norms, else its producers."""
    return [m for m in group.members if m.kind == "norm"] or [m for m in group.members if m.kind == "out"]


def from_norms(groups: Iterable[Group], values: dict[str, np.ndarray], combine: str = "max") -> dict[str, np.ndarray]:
    """group -> (units,) from values a norm layer's channel.

    Norms in series (pointwise, norm, depthwise, norm) take the lowest: a channel that either of them silences is silent.
    Groups with several branches (residual sums) take the highest, which is the union of the branches' masks, or their mean.
    A group without a norm has nothing to be judged by: infinity, so it goes last.
    """
    found = {}
    for g in groups:
        parts = {
            m.module: over_units(values[m.module], m) / (m.index.size / len(m.index))
            for m in g.members
            if m.kind == "norm" and m.module in values
        }
        behind = {m.module: m.behind for m in g.members if m.module in parts and m.behind in parts}
        branches: dict[str, list[np.ndarray]] = {}
        for norm, part in parts.items():
            first = norm
            while first in behind:
                first = behind[first]
            branches.setdefault(first, []).append(part)
        alive = [np.min(series, axis=0) for series in branches.values()]
        if not alive:
            found[g.name] = np.full(g.size, np.inf)
        else:
            found[g.name] = np.max(alive, axis=0) if combine == "max" else np.mean(alive, axis=0)
    return found
