"""SIRFP: spatial-aware redundancy of feature maps (Wu et al., AAAI 2025, arXiv 2412.12672).

For each norm layer, on its output before the activation, at full resolution:
    f_i  = vec(F[b, i]);  fh_i = f_i / (||f_i||_1 + 1e-5);  S = mean_b Fh Fh^T;  r_ij = |S_ij|
and the channels are eliminated greedily by their redundancy to the living ones (`clique.eliminate`); score = -q.

Exact (after the authors' released code): the tap, the L1 scale, the absolute value *after* averaging, the greedy. Paper and
code differ in whether a channel is redundant to itself: `diagonal=True` is the code's.
Our readings, each with a switch: statistics are taken over calibration batches and their mean is plain; with
`prune.sparsity` they are taken during that training, as released, and `decay=0.999` makes the mean the released EMA (it starts
at 0; its bias is the same for all layers);
`scale="cosine"` replaces the L1 by the L2 norm; `normalise="layer"` divides q by its mean over the layer, since raw q
scales with C / (H W) and a global threshold on it merely compares layer shapes; `detail` weighs the standard deviation
of the Sobel gradient that the released script adds (0.4 there, and then it outweighs the redundancy about 70 times), in the layers that
`detail_where` matches (released: "backbone.*"); `detail_from="gradient"` is the released second round's variant: in place of
the Sobel term DCFP's gradient score (`dcfp.eic`), everywhere. The published schedule cuts 30 % of the MACs, trains, and cuts
to 60 %: `prune.rounds` (docs/methods.md). Over several processes statistics are averaged (released: the first one's alone).
Groups with several norms (residual sums) take the highest of their scores, which is the union of the released masks.
"""

from __future__ import annotations

import fnmatch
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from edgeprune.prune.channels import Group, Member
from edgeprune.prune.clique import eliminate
from edgeprune.prune.criteria.dcfp import EIC
from edgeprune.prune.criteria.members import Clock, norms_of, over_units, relative, taps

_EPS = 1e-5
_SOBEL = torch.tensor([[-0.5, 0.0, 0.5], [-1.0, 0.0, 1.0], [-0.5, 0.0, 0.5]])


def similarity(maps: torch.Tensor, scale: str = "l1") -> torch.Tensor:
    """Signed S of one batch of maps (B, C, H, W): (C, C), mean over the batch, f32."""
    flat = maps.detach().float().flatten(2)
    flat = flat / (flat.norm(p=1 if scale == "l1" else 2, dim=2, keepdim=True) + _EPS)
    return torch.einsum("bin,bjn->ij", flat, flat) / len(flat)


def edge_detail(maps: torch.Tensor) -> torch.Tensor:
    """(C,) spatial standard deviation of the Sobel gradient's magnitude, mean over the batch."""
    maps = maps.detach().float()
    channels = maps.shape[1]
    kx = _SOBEL.to(maps).expand(channels, 1, 3, 3)
    gx = F.conv2d(maps, kx, padding=1, groups=channels)
    gy = F.conv2d(maps, kx.transpose(2, 3), padding=1, groups=channels)
    g = (gx.square() + gy.square()).sqrt().flatten(2)
    return g.std(dim=2, correction=0).mean(dim=0)


class SIRFP:
    """Scores = -q of the greedy elimination (plus `detail` times the edge term), one float a unit; higher = keep.

    Args:
        scale: "l1" (paper) or "cosine".
        normalise: "layer" (ours) or "none".
        detail: weight of the detail term; 0 leaves it out.
        detail_from: "edge" or "gradient" (the second round's).
        detail_where: glob of the modules whose channels get it.
        decay: of the running mean over batches, such as 0.999; null takes the plain mean.
        diagonal: count each channel's redundancy to itself (released code; the paper's algorithm does not).
        pool: maps are averaged over squares of so many pixels first, which gives the method's point away; for ablations.
    """

    needs_data = True
    training = "may"

    def __init__(
        self, scale: Literal["l1", "cosine"] = "l1", normalise: Literal["layer", "none"] = "layer", detail: float = 0.0,
        detail_from: Literal["edge", "gradient"] = "edge", detail_where: str = "*", decay: float | None = None, diagonal: bool = False,
        pool: int = 1,
    ) -> None:  # fmt: skip
        self.scale, self.normalise, self.pool = scale, normalise, pool
        self.detail, self.where, self.decay, self.diagonal = detail, detail_where, decay, diagonal
        self.edges = bool(detail) and detail_from == "edge"
        self.needs_gradient = bool(detail) and detail_from == "gradient"
        self.clock = Clock()
        self._means: dict[str, torch.Tensor] = {}  # S a tap
        self._details: dict[str, torch.Tensor] = {}
        self._batches: dict[str, int] = {}
        self._eic = EIC(0.999 if decay is None else decay)
        self._hooks: list[Any] = []
        self._groups: list[Group] = []
        self._norms: dict[str, nn.Module] = {}
        self._trained = False

    def attach(self, net: nn.Module, groups: list[Group]) -> None:
        """Watch the norm layers of the groups (the producing layer where there is no norm)."""
        self._groups, self._norms = groups, norms_of(net, groups)
        for name in {m.module: None for g in groups for m in taps(g)}:
            self._hooks.append(net.get_submodule(name).register_forward_hook(self._watch(name)))

    def _watch(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: torch.Tensor) -> None:
            if self._trained and not module.training:  # a validation on the way
                return
            if isinstance(module, nn.Linear):  # tokens: channels come last
                output = output.movedim(-1, 1)
            maps = output if output.ndim == 4 else output.reshape(*output.shape[:2], -1, 1)
            with self.clock, torch.no_grad(), torch.autocast(maps.device.type, enabled=False):
                count = self._batches[name] = self._batches.get(name, 0) + 1
                share = 1 / count if self.decay is None else 1 - self.decay
                seen = maps if self.pool == 1 else F.avg_pool2d(maps.float(), self.pool, ceil_mode=True)
                _mix(self._means, name, similarity(seen, self.scale), share)
                if self.edges:
                    _mix(self._details, name, edge_detail(maps), share)

        return hook

    def before_step(self, step: int, steps: int, per_epoch: float) -> None:
        """From now on only training batches count."""
        self._trained = True

    def after_backward(self) -> None:
        """Take in the gradients of one batch, for the second round's detail."""
        if self.needs_gradient:
            with self.clock:
                self._eic.update(self._norms)

    def state(self) -> dict[str, Any]:
        """What a killed training goes on from."""
        return {"means": self._means, "details": self._details, "batches": self._batches, "eic": self._eic.values}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._means, self._details, self._batches = (dict(state[k]) for k in ("means", "details", "batches"))
        self._eic.values = dict(state["eic"])

    def detach(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def scores(self) -> dict[str, np.ndarray]:
        """group -> (units,) scores."""
        details = {n: e.double().cpu().numpy() for n, e in self._details.items()}
        if self.needs_gradient:
            details = self._eic.arrays(self._norms)
        return {g.name: np.max([self._score(m, details) for m in taps(g)], axis=0) for g in self._groups}

    def _score(self, tap: Member, details: dict[str, np.ndarray]) -> np.ndarray:
        redundancy = self._means[tap.module].abs().cpu().numpy().astype(np.float64)
        blocks = tap.index.reshape(len(tap.index), -1)
        part = sum(redundancy[np.ix_(blocks[:, k], blocks[:, k])] for k in range(blocks.shape[1]))
        _, q = eliminate(np.asarray(part), self.diagonal)
        score = -relative(q) if self.normalise == "layer" else -q
        if tap.module in details and fnmatch.fnmatch(tap.module, self.where):
            score = score + self.detail * over_units(details[tap.module], tap)
        return score


def _mix(means: dict[str, torch.Tensor], name: str, new: torch.Tensor, share: float) -> None:
    """means[name] moves by `share` towards `new`, from 0."""
    before = means[name].to(new.device) if name in means else torch.zeros_like(new)
    means[name] = before + share * (new - before)
