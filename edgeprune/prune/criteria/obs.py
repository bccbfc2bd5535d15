"""Structured Optimal Brain Surgeon: what the readers of a channel lose when the other channels stand in for it as well as they can.

Of a layer with weights W (C_out, C_in) that reads maps of covariance C, removing the inputs R and correcting the others by least
squares costs, with Q = C^-1 (Hassibi and Stork, NeurIPS 1992, Eq. 4; for sets of weights that go together: Kurtic, Frantar and
Alistarh, "ZipLM", NeurIPS 2023, Eq. 2 and 3)
    E(R) = tr( W[:, R] (Q[R, R])^-1 W[:, R]^T ),
and what stays becomes W - W[:, R] (Q[R, R])^-1 Q[R, :] and Q - Q[:, R] (Q[R, R])^-1 Q[R, :]. A group's units are eliminated
greedily, the one of the least E over all its readers first; a unit's score is the E at which it went (or the highest before it).
`prune.compensate` then makes the correction that the score counts on.

Exact: E and its updates. Ours: it is done for a group of channels with all its readers, and of whole networks at once with the dense
network's maps; the taps of a kernel share one covariance; a reader's E is divided by what it computes at all, tr(W C W^T); the
covariance gets a ridge (`compensate.RIDGE`).
Our reading, with a switch: `fisher` weighs a reader's output channels by the mean square of the loss's gradient there, the
diagonal of the empirical Fisher matrix, instead of counting them alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from edgeprune.prune.channels import Group
from edgeprune.prune.compensate import Moments, readers, watch
from edgeprune.prune.criteria.members import Clock

BLOCKS = 128  # units of wide groups go several at a time, so that this many updates do
POOL = 4  # of as many times more candidates, which see each other go


class OBS:
    """Scores = the loss of the readers' outputs, as shares of those, in the order of the greedy elimination.

    Args:
        fisher: weigh output channels by the squared gradients of the loss (a backward pass a batch); False needs none.
    """

    needs_data = True
    training = "no"

    def __init__(self, fisher: bool = True) -> None:
        self.needs_gradient = fisher
        self.clock = Clock()
        self._moments: dict[str, Moments] = {}
        self._squares: dict[str, torch.Tensor] = {}
        self._hooks: list[Any] = []

    def attach(self, net: nn.Module, groups: list[Group]) -> None:
        """Watch what reads the groups."""
        self._net, self._groups = net, groups
        names = readers(net, groups)
        self._moments, self._hooks = watch(net, names)
        if self.needs_gradient:
            self._hooks += [net.get_submodule(n).register_forward_hook(self._behind(n)) for n in sorted(names)]

    def _behind(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: torch.Tensor) -> None:
            def take(gradient: torch.Tensor) -> None:
                with self.clock:
                    flat = gradient.detach().movedim(-1 if isinstance(module, nn.Linear) else 1, 0).flatten(1)
                    new = flat.double().square().sum(1).cpu()
                    self._squares[name] = self._squares[name] + new if name in self._squares else new

            if output.requires_grad:
                output.register_hook(take)

        return hook

    def after_backward(self) -> None:
        """The gradients were taken as they passed."""

    def detach(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def scores(self) -> dict[str, np.ndarray]:
        """group -> (units,) scores; infinity where no layer reads the group that could be corrected."""
        with self.clock:
            return {g.name: self._scored(g) for g in self._groups}

    def _scored(self, group: Group) -> np.ndarray:
        read = [m for m in group.members if m.kind == "in" and m.module in self._moments]
        if not read:
            return np.full(group.size, np.inf)
        parts = []
        for m in read:
            seen = self._moments[m.module]
            covariance, gram = seen.covariance(), self._gram(m.module)
            whole = float((gram * covariance).sum())
            if whole > 0:  # else it computes nothing, and nothing can be lost
                inverse = torch.linalg.inv(seen.ridged(covariance))
                parts.append(Part(inverse, gram / whole, torch.from_numpy(m.index.reshape(group.size, -1))))
        return eliminate(parts, group.size) if parts else np.zeros(group.size)

    def _gram(self, name: str) -> torch.Tensor:
        """(C_in, C_in) W^T W over output channels and taps."""
        layer = self._net.get_submodule(name)
        weight = layer.weight.detach().double().cpu()  # type: ignore[union-attr,operator]
        flat = weight.movedim(0 if isinstance(layer, nn.ConvTranspose2d) else 1, 0)  # (C_in, C_out, taps)
        flat = flat.reshape(*flat.shape[:2], -1)
        if name in self._squares:
            flat = flat * self._squares[name].sqrt()[None, :, None]
        flat = flat.flatten(1)
        return flat @ flat.T


class Part:
    """One reader in the elimination: Q (C, C), W^T W (C, C), and the inputs of each unit (units, m)."""

    def __init__(self, inverse: torch.Tensor, gram: torch.Tensor, index: torch.Tensor) -> None:
        self.inverse, self.gram, self.index = inverse, gram, index

    def errors(self) -> np.ndarray:
        """(units,) E of removing each."""
        rows, columns = self.index[:, :, None], self.index[:, None, :]
        inner, outer = self.inverse[rows, columns], self.gram[rows, columns]
        if inner.shape[1] == 1:
            return (outer / inner).flatten().numpy()
        return torch.linalg.solve(inner, outer).diagonal(dim1=1, dim2=2).sum(1).numpy()

    def without(self, gone: np.ndarray) -> None:
        """Take units out, and correct the others. Those that are gone keep a unit matrix, so that nothing divides by 0."""
        out = self.index[torch.from_numpy(gone)].flatten()
        across = self.inverse[:, out]
        by = torch.linalg.solve(across[out], across.T).T  # Q[:, R] (Q[R, R])^-1
        half = self.gram[:, out] - by @ self.gram[out][:, out] / 2
        self.gram.addmm_(torch.cat([half, by], 1), torch.cat([by, half], 1).T, alpha=-1)
        self.inverse.addmm_(by, across.T, alpha=-1)
        for matrix, alone in ((self.gram, 0.0), (self.inverse, 1.0)):
            matrix[out] = 0
            matrix[:, out] = 0
            matrix[out, out] = alone

    def only(self, units: np.ndarray) -> Part:
        """The same for some of the units; of the others nothing is seen."""
        index = self.index[torch.from_numpy(units)]
        inputs = index.flatten()
        place = torch.arange(len(inputs)).reshape(index.shape)
        return Part(self.inverse[inputs][:, inputs], self.gram[inputs][:, inputs], place)


def eliminate(parts: list[Part], size: int) -> np.ndarray:
    """(size,) scores of units that go greedily, least error first; `parts` are used up.

    Wide groups lose several units at a time, chosen one after another among the `POOL` times as many that look best.
    """
    block = max(1, size // BLOCKS)
    alive, score, worst = np.ones(size, dtype=bool), np.zeros(size), 0.0
    while alive.any():
        units = np.flatnonzero(alive)
        errors = np.sum([p.errors() for p in parts], axis=0)[units]
        pool = units[np.argsort(errors, kind="stable")[: POOL * block if block > 1 else 1]]
        few, taken = [p.only(pool) for p in parts], []
        for _ in range(min(block, len(pool))):
            errors = np.sum([p.errors() for p in few], axis=0)
            errors[taken] = np.inf
            best = int(errors.argmin())
            taken.append(best)
            worst = max(worst * (1 + 1e-9), float(errors[best]))  # strictly upwards: the order of going is the score's
            score[pool[best]] = worst
            for p in few:
                p.without(np.array([best]))
        gone = pool[taken]
        alive[gone] = False
        for p in parts:
            p.without(gone)
    return score
