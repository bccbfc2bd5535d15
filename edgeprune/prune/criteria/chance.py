"""Random scores: the floor that every method has to beat."""

from __future__ import annotations

import numpy as np
from torch import nn

from edgeprune.prune.channels import Group
from edgeprune.prune.criteria.members import Clock


class Random:
    """Independent uniform scores.

    Args:
        seed: of the draw; in a recipe its own seed, so that runs of several seeds cut several ways.
    """

    needs_data = False
    needs_gradient = False
    training = "no"

    def __init__(self, seed: int = 0) -> None:
        self.clock = Clock()
        self._rng = np.random.default_rng(seed)
        self._groups: list[Group] = []

    def attach(self, net: nn.Module, groups: list[Group]) -> None:
        """Remember the groups."""
        self._groups = groups

    def detach(self) -> None:
        """Nothing is attached."""

    def scores(self) -> dict[str, np.ndarray]:
        """group -> (units,) scores in [0, 1)."""
        return {g.name: self._rng.random(g.size) for g in self._groups}
