"""Group magnitude as in DepGraph (Fang et al., CVPR 2023; Torch-Pruning's group magnitude importance).

    I_i = sqrt(sum over all members m of the group of sum (w_m[i])^2)
the members being everything that would be cut with channel i: the filters that produce it, its norm's scale, and the
slices of the consumers' weights that read it.

Exact: the members and the squares. Torch-Pruning ranks by the members' mean of squares, which orders a group alike; its
regularised training of group norms is not built here.
Our readings, with a switch each: `normalise="layer"` divides by the group's mean (its `normalizer="mean"`, applied to
the root); `norms=False` leaves the scales out; `consumers=False` leaves the readers' slices out.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import nn

from edgeprune.prune.channels import Group, Member
from edgeprune.prune.criteria.members import Clock, over_units, relative


def squares(layer: nn.Module, kind: str) -> np.ndarray:
    """(channels,) sums of squared weights along a member's axis, f64."""
    weight = layer.weight.detach().double().cpu().square()  # type: ignore[union-attr,operator]
    if kind == "norm":
        return weight.numpy()
    axis = (
        int(isinstance(layer, nn.ConvTranspose2d)) if kind == "out" else int(not isinstance(layer, nn.ConvTranspose2d))
    )
    return weight.movedim(axis, 0).flatten(1).sum(dim=1).numpy()


class GroupNorm:
    """Root of the squares of all weights that go with a channel.

    Args:
        normalise: "layer" divides by the group's mean, "none" does not.
        norms: count the norms' scales.
        consumers: count the slices of the layers that read the channel.
    """

    needs_data = False
    needs_gradient = False
    training = "no"

    def __init__(
        self, normalise: Literal["layer", "none"] = "layer", norms: bool = True, consumers: bool = True
    ) -> None:
        self.normalise = normalise
        self.kinds = {"out", *(["norm"] if norms else []), *(["in"] if consumers else [])}
        self.clock = Clock()
        self._found: dict[str, np.ndarray] = {}

    def attach(self, net: nn.Module, groups: list[Group]) -> None:
        """Read the weights."""
        with self.clock, torch.no_grad():
            for g in groups:
                total = np.sqrt(np.sum([self._part(net, m) for m in g.members if m.kind in self.kinds], axis=0))
                self._found[g.name] = relative(total) if self.normalise == "layer" else total

    def _part(self, net: nn.Module, member: Member) -> np.ndarray:
        layer = net.get_submodule(member.module)
        if layer.weight is None:  # a norm without a scale
            return np.zeros(len(member.index))
        return over_units(squares(layer, member.kind), member)

    def detach(self) -> None:
        """Nothing is attached."""

    def scores(self) -> dict[str, np.ndarray]:
        """group -> (units,) group norms."""
        return self._found
