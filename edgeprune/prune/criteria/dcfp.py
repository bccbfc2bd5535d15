"""DCFP (Wang et al., TCSVT 34(7), 2024): how much training wants to shrink a scale.

With g = dL/dgamma of one optimiser step:
    t = |g| where g * gamma > 0 (the step would shrink gamma), else t = e
    e <- r * e + (1 - r) * t,  e = 0 at the start;  score = e

Exact (after the released code): the score, its start at 0, r = 0.999 as its training script passes it (the class has 0.99). Ratios
there are found a pool (backbone, the rest); here one ranking or the allocator shares out the budget. Residual groups take the
highest of their norms, as its union of masks does. Its fine-tuning loss is `loss.kind: gsrl` and serves every method.
Gradients are read behind the loss scaler's unscaling and, over several processes, after they were averaged; one that
overflowed (fp16: the scaler skips that step) moves nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from edgeprune.prune.channels import Group
from edgeprune.prune.criteria.members import Clock, from_norms, norms_of


def eic(before: torch.Tensor, gamma: torch.Tensor, gradient: torch.Tensor, decay: float) -> torch.Tensor:
    """The next e of (C,) scales."""
    shrinks = (gradient * gamma > 0) & gradient.isfinite()
    return decay * before + (1 - decay) * torch.where(shrinks, gradient.abs(), before)


class EIC:
    """e of every norm, kept over training steps."""

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.values: dict[str, torch.Tensor] = {}

    def update(self, norms: dict[str, nn.Module]) -> None:
        """Take in the gradients that the norms' scales hold now."""
        for name, norm in norms.items():
            gamma = norm.weight
            if isinstance(gamma, nn.Parameter) and gamma.grad is not None:
                before = self.values.get(name, torch.zeros_like(gamma, dtype=torch.float32)).to(gamma.device)
                self.values[name] = eic(before, gamma.detach().float(), gamma.grad.detach().float(), self.decay)

    def arrays(self, norms: dict[str, nn.Module]) -> dict[str, np.ndarray]:
        """name -> (C,) e, f64; 0 for a norm that never had a gradient."""
        return {
            n: self.values.get(n, torch.zeros(len(m.weight))).double().cpu().numpy()  # type: ignore[arg-type]
            for n, m in norms.items()
        }


class DCFP:
    """The running mean of the gradients that shrink a scale.

    Args:
        decay: of the running mean, r.
    """

    needs_data = False
    needs_gradient = False
    training = "must"

    def __init__(self, decay: float = 0.999) -> None:
        self.clock = Clock()
        self._eic = EIC(decay)
        self._groups: list[Group] = []
        self._norms: dict[str, nn.Module] = {}

    def attach(self, net: nn.Module, groups: list[Group]) -> None:
        """Remember the groups' norms."""
        self._groups, self._norms = groups, norms_of(net, groups)

    def after_backward(self) -> None:
        """Take in one training step."""
        with self.clock:
            self._eic.update(self._norms)

    def state(self) -> dict[str, Any]:
        """What a killed training goes on from."""
        return {"eic": dict(self._eic.values)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._eic.values = dict(state["eic"])

    def detach(self) -> None:
        """Nothing is attached."""

    def scores(self) -> dict[str, np.ndarray]:
        """group -> (units,) e; infinity where there is no norm."""
        return from_norms(self._groups, self._eic.arrays(self._norms))
