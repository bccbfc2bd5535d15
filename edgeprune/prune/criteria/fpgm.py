"""FPGM: filter pruning by the geometric median (He et al., CVPR 2019), and FPGM-A, its global ranking in CAP's tables.

    D_i = sum_j ||W_i - W_j||_2 over the filters of one layer; the smallest D go, as the others can stand in for them

Exact (after the authors' released code): Euclidean distance (their `dist_type == "l2" or "cos"` is always true), D over
the filters that are left when the share 1 - `norm_rate` of smallest norm has gone first.
The paper prunes one fixed share of every layer: `prune.allocate: uniform`. It is soft there (masks anew every epoch,
zeroed filters may grow back); here filters are judged once, when they are cut.
Our readings: groups with several producers add up their D; `normalise="layer"` divides by the layer's mean, so that a
global budget can be shared out. FPGM-A ranks raw D over all layers (`normalise="none"`; give `prune.min_keep: 0.1`);
raw D scales with the layer's width and fan-in, which explains its collapse in CAP's tables.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import nn

from edgeprune.prune.channels import Group
from edgeprune.prune.criteria.members import Clock, filters, over_units, relative


def distances(weights: torch.Tensor, norm_rate: float = 1.0) -> np.ndarray:
    """D of each of (C, d) filters: (C,) f64.

    Filters that go by their norm first lie below all others, ordered by norm.
    """
    w = weights.double()
    norms = w.norm(dim=1)
    left = norms.argsort(descending=True, stable=True)[: math.ceil(norm_rate * len(w))]
    d = norms - norms.max() - 1
    d[left] = torch.cdist(w[left], w[left], compute_mode="donot_use_mm_for_euclid_dist").sum(dim=1)
    return d.numpy()


class FPGM:
    """Sum of the distances to the layer's other filters.

    Args:
        norm_rate: the share of filters that is left after the smallest norms have gone.
        normalise: "layer" divides by the layer's mean, "none" leaves the distances as they are.
    """

    needs_data = False
    needs_gradient = False
    training = "no"

    def __init__(self, norm_rate: float = 1.0, normalise: Literal["layer", "none"] = "layer") -> None:
        self.norm_rate, self.normalise = norm_rate, normalise
        self.clock = Clock()
        self._found: dict[str, np.ndarray] = {}

    def attach(self, net: nn.Module, groups: list[Group]) -> None:
        """Read the weights."""
        with self.clock:
            found: dict[str, np.ndarray] = {}
            for name in {m.module: None for g in groups for m in g.members if m.kind == "out"}:
                d = distances(filters(net.get_submodule(name)), self.norm_rate)
                found[name] = relative(d) if self.normalise == "layer" else d
            for g in groups:
                self._found[g.name] = np.sum(
                    [over_units(found[m.module], m) for m in g.members if m.kind == "out"], axis=0
                )

    def detach(self) -> None:
        """Nothing is attached."""

    def scores(self) -> dict[str, np.ndarray]:
        """group -> (units,) D."""
        return self._found


class FPGMA(FPGM):
    """FPGM-A: raw distances, ranked over all layers together."""

    def __init__(self, norm_rate: float = 1.0) -> None:
        super().__init__(norm_rate, "none")
