"""Weight magnitude: the sum of |w| (L1) or the root of the sum of w² (L2) of a channel's filter.

Norms of different layers are not comparable (they scale with the fan-in), so each layer's are divided by their mean;
groups with several producers add theirs up.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from torch import nn

from edgeprune.prune.channels import Group
from edgeprune.prune.criteria.members import Clock, filters, over_units, relative


class Magnitude:
    """Scores from the weights alone.

    Args:
        power: 1 or 2.
        normalise: "layer" divides by the layer's mean, "none" leaves the norms as they are.
    """

    needs_data = False
    needs_gradient = False
    training = "no"

    def __init__(self, power: int = 1, normalise: Literal["layer", "none"] = "layer") -> None:
        self.power, self.normalise = power, normalise
        self.clock = Clock()
        self._found: dict[str, np.ndarray] = {}

    def attach(self, net: nn.Module, groups: list[Group]) -> None:
        """Read the weights."""
        with self.clock:
            for g in groups:
                total = np.zeros(g.size)
                for m in (m for m in g.members if m.kind == "out"):
                    norm = filters(net.get_submodule(m.module)).double().norm(p=self.power, dim=1).numpy()
                    total += over_units(relative(norm) if self.normalise == "layer" else norm, m)
                self._found[g.name] = total

    def detach(self) -> None:
        """Nothing is attached."""

    def scores(self) -> dict[str, np.ndarray]:
        """group -> (units,) scores."""
        return self._found


class L1(Magnitude):
    """Sum of absolute weights."""

    def __init__(self, normalise: Literal["layer", "none"] = "layer") -> None:
        super().__init__(1, normalise)


class L2(Magnitude):
    """Euclidean norm of the weights."""

    def __init__(self, normalise: Literal["layer", "none"] = "layer") -> None:
        super().__init__(2, normalise)
