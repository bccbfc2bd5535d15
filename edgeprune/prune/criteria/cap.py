"""CAP: context-aware pruning (He, Wu, Liang, Lam, WACV 2021).

Known of the paper (its README and figures; no code was released): a C x C channel affinity matrix from each BN's
activated output, a C x 1 context guiding vector, sparsity on the BN scales under that guidance, one global threshold
over |gamma|, at least 10 % of every layer kept.

Everything else is our reading, with a switch each, and no reproduction is claimed:
    A = F reshaped to (C, N);  E = A A^T / sqrt(N);  X = row softmax of E   (affinity="danet": of rowmax(E) - E)
    g_i = mean_j X_ji   (columns: how strongly the others attend to i; the row sums are 1 and say nothing; reduce="max": max_j)
    L = L_seg + strength * sum_i (1 - g_i) |gamma_i|   (mode="follow": strength / 2 * sum_i (|gamma_i| - g_i)^2)
with g averaged over a step's images, those of all processes, then min-max scaled to [0, 1] and taken as constant; applied as a
subgradient on gamma after the backward pass (`after_backward`); score = |gamma|. The activation is a ReLU for every norm,
whatever the network has behind it. Residual groups take the highest of their norms, the union of masks. The floor of a tenth is
`prune.min_keep: 0.1`, and lies within the budget here: other layers give way for it.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from edgeprune.prune.channels import Group
from edgeprune.prune.criteria.members import Clock, from_norms, norms_of
from edgeprune.prune.ranks import averaged


def affinity(maps: torch.Tensor, kind: str = "softmax", scaled: bool = True) -> torch.Tensor:
    """X of each image: (B, C, H, W) activated maps to (B, C, C), rows sum to 1."""
    a = maps.detach().float().flatten(2)
    e = a @ a.transpose(1, 2)
    if scaled:
        e = e / a.shape[2] ** 0.5
    if kind == "danet":
        e = e.amax(dim=2, keepdim=True) - e
    return e.softmax(dim=2)  # torch subtracts the row maximum, so nothing overflows


def guidance(maps: torch.Tensor, kind: str = "softmax", scaled: bool = True, reduce: str = "mean") -> torch.Tensor:
    """g of a batch: (C,), the columns' mean (or greatest) over channels, mean over images."""
    x = affinity(maps, kind, scaled)
    return x.mean(dim=(0, 1)) if reduce == "mean" else x.amax(dim=1).mean(dim=0)


def push(gamma: torch.Tensor, g: torch.Tensor, mode: str = "sparsity") -> torch.Tensor:
    """(C,) what is added to the gradient of `gamma`, for strength 1; g is (C,), not scaled yet."""
    g = (g - g.min()) / (g.max() - g.min()).clamp_min(1e-12)
    gamma = gamma.detach()
    return ((1 - g) if mode == "sparsity" else gamma.abs() - g) * gamma.sign()


class CAP:
    """|gamma| after sparsity training guided by the channels' affinity.

    Args:
        strength: of the sparsity term (1e-5 to 1e-4 is usual for L1 on BN scales).
        cagm_affinity: "softmax" or "danet" (rowmax - E).
        cagm_scaled: divide E by sqrt(N) first.
        cagm_reduce: "mean" or "max" of the affinity's columns.
        cags_mode: "sparsity", or "follow": scales are pulled towards the guidance.
    """

    needs_data = False
    needs_gradient = False
    training = "must"

    def __init__(
        self, strength: float = 1e-4, cagm_affinity: Literal["softmax", "danet"] = "softmax", cagm_scaled: bool = True,
        cagm_reduce: Literal["mean", "max"] = "mean", cags_mode: Literal["sparsity", "follow"] = "sparsity",
    ) -> None:  # fmt: skip
        self.strength, self.mode = strength, cags_mode
        self.reading = (cagm_affinity, cagm_scaled, cagm_reduce)
        self.clock = Clock()
        self._guides: dict[str, list[torch.Tensor]] = {}  # of the batches since the last step
        self._norms: dict[str, nn.Module] = {}
        self._hooks: list[Any] = []
        self._groups: list[Group] = []

    def attach(self, net: nn.Module, groups: list[Group]) -> None:
        """Watch the groups' norms; during training each batch leaves its guiding vectors behind."""
        self._groups = groups
        self._norms = norms_of(net, groups)
        for name, module in self._norms.items():
            self._hooks.append(module.register_forward_hook(self._watch(name)))

    def _watch(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: torch.Tensor) -> None:
            if module.training and output.ndim == 4:
                with self.clock, torch.no_grad(), torch.autocast(output.device.type, enabled=False):
                    self._guides.setdefault(name, []).append(guidance(F.relu(output), *self.reading))

        return hook

    def after_backward(self) -> None:
        """Add the sparsity subgradient to the scales' gradients."""
        with self.clock:
            seen = {name: torch.stack(parts).mean(dim=0) for name, parts in self._guides.items()}
            self._guides = {}
            for name, g in averaged(seen).items():  # each process saw other images
                gamma = self._norms[name].weight
                if isinstance(gamma, nn.Parameter) and gamma.grad is not None:
                    gamma.grad += self.strength * push(gamma, g, self.mode)

    def detach(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def scores(self) -> dict[str, np.ndarray]:
        """group -> (units,) |gamma|; residual groups take the highest of their norms (the union of the masks)."""
        scales = {n: m.weight.detach().abs().double().cpu().numpy() for n, m in self._norms.items()}  # type: ignore[union-attr,operator]
        return from_norms(self._groups, scales)
