"""SIRFP: spatial-aware redundancy of feature maps (Wu et al., AAAI 2025, arXiv 2412.12672).

For each norm layer, on its output before the activation, at full resolution:
    f_i  = vec(F[b, i]);  fh_i = f_i / (||f_i||_1 + 1e-5);  S = mean_b Fh Fh^T;  r_ij = |S_ij|
and the channels are eliminated greedily by their redundancy to the living ones (`clique.eliminate`); score = -q.

Exact (after the authors' released code): the tap, the L1 scale, the absolute value *after* averaging, the greedy.
Our readings, each with a switch: the mean over batches is plain, not an EMA (the EMA's bias is the same for all layers);
`scale="cosine"` replaces the L1 by the L2 norm; `normalise="layer"` divides q by its mean over the layer, since raw q
scales with C / (H W) and a global threshold on it merely compares layer shapes; `detail` weighs the standard deviation
of the Sobel gradient that the released script adds (0.4 there, and then it outweighs the redundancy about 70 times).
Groups with several norms (residual sums) take the highest of their scores, which is the union of the released masks.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from edgeprune.prune.channels import Group, Member
from edgeprune.prune.clique import eliminate

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
        detail: weight of the edge term; 0 leaves it out.
    """

    needs_data = True
    needs_gradient = False

    def __init__(self, scale: str = "l1", normalise: str = "layer", detail: float = 0.0) -> None:
        self.scale, self.normalise, self.detail = scale, normalise, detail
        self.seconds = 0.0
        self._sums: dict[str, Any] = {}
        self._details: dict[str, Any] = {}
        self._batches: dict[str, int] = {}
        self._hooks: list[Any] = []
        self._groups: list[Group] = []

    def attach(self, net: nn.Module, groups: list[Group]) -> None:
        """Watch the norm layers of the groups (the producing layer where there is no norm)."""
        self._groups = groups
        for name in {m.module for g in groups for m in taps(g)}:
            self._hooks.append(net.get_submodule(name).register_forward_hook(self._watch(name)))

    def _watch(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: torch.Tensor) -> None:
            started = time.perf_counter()
            if isinstance(module, nn.Linear):  # tokens: channels come last
                output = output.movedim(-1, 1)
            maps = output if output.ndim == 4 else output.reshape(*output.shape[:2], -1, 1)
            with torch.no_grad(), torch.autocast(maps.device.type, enabled=False):
                s = similarity(maps, self.scale)
                self._sums[name] = self._sums[name] + s if name in self._sums else s
                if self.detail:
                    e = edge_detail(maps)
                    self._details[name] = self._details[name] + e if name in self._details else e
            self._batches[name] = self._batches.get(name, 0) + 1
            self.seconds += time.perf_counter() - started

        return hook

    def detach(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def scores(self) -> dict[str, np.ndarray]:
        """group -> (units,) scores."""
        return {g.name: np.max([self._score(m) for m in taps(g)], axis=0) for g in self._groups}

    def _score(self, tap: Member) -> np.ndarray:
        batches = self._batches[tap.module]
        redundancy = (self._sums[tap.module] / batches).abs().cpu().numpy().astype(np.float64)
        blocks = tap.index.reshape(len(tap.index), -1)
        part = sum(redundancy[np.ix_(blocks[:, k], blocks[:, k])] for k in range(blocks.shape[1]))
        _, q = eliminate(np.asarray(part))
        if self.normalise == "layer":
            q = q / max(q.mean(), 1e-12)
        score = -q
        if self.detail:
            detail = (self._details[tap.module] / batches).cpu().numpy()
            score = score + self.detail * detail[blocks].sum(axis=1)
        return score


def taps(group: Group) -> list[Member]:
    """Where a group is watched: its norms, else its producers."""
    return [m for m in group.members if m.kind == "norm"] or [m for m in group.members if m.kind == "out"]
