"""Network slimming, NS (Liu et al., ICCV 2017), and BN-Scale, the same ranking without its training.

    L = L_task + strength * sum |gamma|,  as in the public code: gamma.grad += strength * sign(gamma) after the backward pass
    score = |gamma|, one threshold over all layers

Exact: the subgradient, the score. "BN-Scale" is known to us as a row of CAP's tables only; our reading is NS without
sparsity training (Ye et al. 2018, ISTA on gamma, is the other candidate).
Our readings: residual groups take the highest of their norms (`combine="max"`, the union of the layers' masks;
"mean" is the switch); beta is left alone, and surgery folds the constant that a removed channel emitted; under the budget
`channels: 0.5x` exactly floor(0.5 n) of n channels stay (public code takes sorted[int(n p)] with a strict ">" and
removes one too many); weight decay never acts on gamma here.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from torch import nn

from edgeprune.prune.channels import Group
from edgeprune.prune.criteria.members import Clock, from_norms, norms_of


class BNScale:
    """|gamma| of the network as it is.

    Args:
        combine: of a group's several norms: "max" or "mean".
    """

    needs_data = False
    needs_gradient = False
    training = "no"

    def __init__(self, combine: Literal["max", "mean"] = "max") -> None:
        self.combine = combine
        self.clock = Clock()
        self._groups: list[Group] = []
        self._norms: dict[str, nn.Module] = {}

    def attach(self, net: nn.Module, groups: list[Group]) -> None:
        """Remember the groups' norms."""
        self._groups, self._norms = groups, norms_of(net, groups)

    def detach(self) -> None:
        """Nothing is attached."""

    def scores(self) -> dict[str, np.ndarray]:
        """group -> (units,) |gamma|; infinity where there is no norm."""
        scales = {n: m.weight.detach().abs().double().cpu().numpy() for n, m in self._norms.items()}  # type: ignore[union-attr,operator]
        return from_norms(self._groups, scales, self.combine)


class NS(BNScale):
    """|gamma| after training under an L1 penalty on all prunable scales.

    Args:
        strength: of the penalty; 1e-4 and 1e-5 in the paper.
        combine: of a group's several norms: "max" or "mean".
    """

    training = "must"

    def __init__(self, strength: float = 1e-4, combine: Literal["max", "mean"] = "max") -> None:
        super().__init__(combine)
        self.strength = strength

    def after_backward(self) -> None:
        """Add the penalty's subgradient to the scales' gradients."""
        with self.clock:
            for norm in self._norms.values():
                gamma = norm.weight
                if isinstance(gamma, nn.Parameter) and gamma.grad is not None:
                    gamma.grad += self.strength * gamma.detach().sign()
