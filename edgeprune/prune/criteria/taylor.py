"""First-order Taylor importance, group-wise (Molchanov et al., CVPR 2019).

What the loss changes by when a channel is silenced, to first order: the sum of its weights times their gradients.
    variant="weight":  p = sum_{s in the channel} w_s dL/dw_s            (the channel's filter and bias)
    variant="norm":    p = gamma dL/dgamma + beta dL/dbeta                (a gate behind the norm)
    I = mean over batches of |sum over the group's members of p|^power

Exact: the products, the square (`power=2`; 1 is the absolute value), the mean over batches of the squared batch gradient, raw
scores ranked over all layers. The signs are kept while a group's members are added up (as in HALP's released code): +2 and
-2 in a residual sum cancel.
Our readings: the gradients are taken in evaluation mode, over calibration batches with the fine-tuning loss. A
batch-normalised layer in training mode does not depend on the scale of its filters, so sum w dL/dw is identically 0 there,
and the running statistics are what the cut network starts from. A group without a norm falls back to its producers' weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import nn

from edgeprune.prune.channels import Group, Member
from edgeprune.prune.criteria.members import Clock, over_units, relative, taps

Gradient = Callable[[torch.Tensor], torch.Tensor | None]


def products(layer: nn.Module, gradient: Gradient = lambda p: p.grad) -> np.ndarray:
    """(channels,) signed sums of weight times gradient over each output channel, f64; 0 where there is no gradient."""
    norm = isinstance(layer, nn.modules.batchnorm._NormBase)
    axis = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
    size = layer.num_features if norm else layer.weight.shape[axis]  # type: ignore[union-attr,index]
    total = torch.zeros(int(size), dtype=torch.float64)  # type: ignore[arg-type]
    for name, p in layer.named_parameters(recurse=False):
        g = gradient(p)
        if g is not None:
            product = p.detach().double().cpu() * g.detach().double().cpu()
            total += product.movedim(axis if name == "weight" and not norm else 0, 0).reshape(len(total), -1).sum(dim=1)
    return total.numpy()


def judged(group: Group, variant: str) -> list[Member]:
    """The members whose products count."""
    return taps(group) if variant == "norm" else [m for m in group.members if m.kind == "out"]


def signed(group: Group, found: dict[str, np.ndarray], variant: str) -> np.ndarray:
    """(units,) products of a group's members, added up with their signs."""
    return np.sum([over_units(found[m.module], m) for m in judged(group, variant)], axis=0)


class Taylor:
    """Mean over batches of |signed sum of weight times gradient|^power.

    Args:
        variant: "weight" (filters) or "norm" (scale and shift of the norms).
        power: 2 or 1.
        normalise: "none" (paper) or "layer", divided by the layer's mean.
    """

    needs_data = True
    needs_gradient = True
    training = "no"

    def __init__(
        self,
        variant: Literal["weight", "norm"] = "weight",
        power: Literal[1, 2] = 2,
        normalise: Literal["layer", "none"] = "none",
    ) -> None:
        self.variant, self.power, self.normalise = variant, power, normalise
        self.clock = Clock()
        self._groups: list[Group] = []
        self._layers: dict[str, nn.Module] = {}
        self._sums: dict[str, np.ndarray] = {}
        self._batches = 0

    def attach(self, net: nn.Module, groups: list[Group]) -> None:
        """Remember the layers that are read after each backward pass."""
        self._groups = groups
        names = {m.module: None for g in groups for m in judged(g, self.variant)}
        self._layers = {name: net.get_submodule(name) for name in names}

    def after_backward(self) -> None:
        """Read the gradients of one batch."""
        with self.clock:
            found = {name: products(layer) for name, layer in self._layers.items()}
            for g in self._groups:
                part = np.abs(signed(g, found, self.variant)) ** self.power
                self._sums[g.name] = self._sums.get(g.name, 0) + part
            self._batches += 1

    def detach(self) -> None:
        """Nothing is attached."""

    def scores(self) -> dict[str, np.ndarray]:
        """group -> (units,) importance."""
        means = {g.name: self._sums[g.name] / self._batches for g in self._groups}
        return {n: relative(m) for n, m in means.items()} if self.normalise == "layer" else means
