"""The pruning criteria, by the name that a recipe uses. One file a method."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from torch import nn

from edgeprune.prune.channels import Group
from edgeprune.prune.criteria import cap, chance, magnitude, sirfp


class Criterion(Protocol):
    """Watches a network and gives one float a unit; higher = keep. It never touches weights, budgets or devices."""

    needs_data: bool
    needs_gradient: bool

    def attach(self, net: nn.Module, groups: list[Group]) -> None: ...
    def detach(self) -> None: ...
    def scores(self) -> dict[str, np.ndarray]: ...


CRITERIA: dict[str, Any] = {
    "sirfp": sirfp.SIRFP,
    "cap": cap.CAP,
    "l1": magnitude.L1,
    "l2": magnitude.L2,
    "random": chance.Random,
}
