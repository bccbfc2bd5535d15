"""ACoSP: soft top-k gates under a falling temperature (Ditschuneit and Otterbach, GCPR 2022, arXiv 2201.11103).

A gate has one learnable number w ~ N(0, 1) a channel; k = max(ceil(keep C), 8) of C channels are to stay, in every layer alike:
    z = (w - mean w) / max(std w, 1e-3)   (unbiased std)
    x0 = quantile(z, 1 - k / C), taken as constant;  m = sigmoid((z - x0) / tau);  y = m * conv(x)
    tau falls from 1 to 1e-3 geometrically between the shares `start` and `end` of the training
    from `end` on the mask is hard, m >= quantile(m, 1 - k / C), and only the weights go on learning

Exact (after the released code): all of the above; no term in the loss; the last classifier has no gate.
Our readings: a *group* shares one gate (the release gates every convolution on its own and scatters the survivors back into the
full width; a group's channels must agree to be really removed). `update="step"` moves tau at each step, `"epoch"` once an epoch
as released. `after_bn=True` puts the gate behind the norm: between convolution and norm (released) the norm undoes the gate's
scale until m^2 var comes down to its eps.
Accounting: true compaction. Inputs go with the outputs, so inner layers shrink by about keep^2, and parameters and MACs are
not those of the paper's tables, which count kept filters (2x, 4x, … = keep 0.5, 0.25, …).
Under `budget.channels: 0.5x` with `keep: 0.5`, either allocator gives every layer its a-priori k (but for the floor of 8): score =
z - x0, above 0 for exactly k channels. Under other budgets w gives the order; a width beyond k gets channels that the hard mask
had silenced, so choose `keep` no smaller than the budget needs.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from edgeprune.prune.channels import Group, Member
from edgeprune.prune.criteria.members import Clock, taps

_PLACE = "acosp_gates"


def kept(size: int, keep: float, least: int = 8) -> int:
    """k of `size` channels."""
    return min(size, max(math.ceil(keep * size), least))


def standardised(w: torch.Tensor) -> torch.Tensor:
    """z of (C,) gates."""
    return (w - w.mean()) / w.std(correction=1).clamp_min(1e-3)


def threshold(z: torch.Tensor, k: int) -> torch.Tensor:
    """x0: exactly k of z lie above it where there are no ties."""
    return torch.quantile(z.detach(), 1 - k / len(z))


def soft_mask(w: torch.Tensor, k: int, tau: float) -> torch.Tensor:
    """(C,) m in 0..1; all 1 where k is C."""
    if k >= len(w):
        return torch.ones_like(w)
    z = standardised(w)
    return torch.sigmoid((z - threshold(z, k)) / tau)


def hard_mask(w: torch.Tensor, k: int, tau: float) -> torch.Tensor:
    """(C,) 0 or 1, k ones where there are no ties."""
    m = soft_mask(w.detach(), k, tau)
    return (m >= torch.quantile(m, 1 - k / len(m))).to(m.dtype) if k < len(w) else m


def temperature(done: float, start: float, end: float, first: float = 1.0, last: float = 1e-3) -> float:
    """tau where the share `done` of the training lies behind."""
    if done <= start:
        return first
    share = min(max((done - start) / max(end - start, 1e-12), 0.0), 1.0)
    return math.exp(math.log(first) + share * (math.log(last) - math.log(first)))


class ACoSP:
    """Order of the channels by their trained gates.

    Args:
        keep: the share of each layer's channels that stays, a priori.
        start, end: shares of `prune.sparsity`'s training between which the temperature falls (released, Cityscapes: 0 to 50 of
            200 epochs).
        first, last: temperatures.
        update: "step" or "epoch" (released).
        least: channels that a layer keeps at least.
        after_bn: gates behind the norm.
        learnable: false keeps the random gates as they are (the paper's baseline).
        seed: of the gates' start; in a recipe its own seed.
    """

    needs_data = False
    needs_gradient = False
    training = "must"

    def __init__(
        self, keep: float = 0.5, start: float = 0.0, end: float = 0.25, first: float = 1.0, last: float = 1e-3,
        update: Literal["step", "epoch"] = "step", least: int = 8, after_bn: bool = False, learnable: bool = True,
        seed: int = 0,
    ) -> None:  # fmt: skip
        self.keep, self.start, self.end, self.first, self.last = keep, start, end, first, last
        self.update, self.least, self.after_bn, self.learnable, self.seed = update, least, after_bn, learnable, seed
        self.clock = Clock()
        self.tau = first
        self._net: nn.Module | None = None
        self._groups: list[Group] = []
        self._gates: dict[str, nn.Parameter] = {}
        self._fixed: dict[str, torch.Tensor] = {}  # the gates as they were when the masks became hard
        self._hooks: list[Any] = []
        self._trained = False

    def attach(self, net: nn.Module, groups: list[Group]) -> None:
        """Put the gates into the network, as parameters of its own, so that they are trained and kept with it."""
        self._net, self._groups = net, groups
        generator = torch.Generator().manual_seed(self.seed)
        for g in groups:
            drawn = torch.randn(g.size, generator=generator)
            self._gates[g.name] = nn.Parameter(drawn, requires_grad=self.learnable)
        net.add_module(_PLACE, nn.ParameterList(self._gates.values()))
        gated: dict[str, list[tuple[Group, Member]]] = {}
        for g in groups:
            for m in self._members(g):
                gated.setdefault(m.module, []).append((g, m))
        for name, parts in gated.items():
            self._hooks.append(net.get_submodule(name).register_forward_hook(self._gate(parts)))

    def _members(self, group: Group) -> list[Member]:
        return taps(group) if self.after_bn else [m for m in group.members if m.kind == "out"]

    def _mask(self, group: Group) -> torch.Tensor:
        w, k = self._gates[group.name], kept(group.size, self.keep, self.least)
        if group.name in self._fixed:
            mask = hard_mask(self._fixed[group.name].to(w.device), k, self.tau)
        else:
            mask = soft_mask(w, k, self.tau)
        return mask + 0 * w  # w always stays in the graph: data-parallel training waits for every parameter's gradient

    def _over(self, parts: list[tuple[Group, Member]], channels: int) -> torch.Tensor:
        """(channels,) gates of one layer; 1 for channels in no group."""
        gates = torch.ones(channels, device=next(iter(self._gates.values())).device)
        for g, m in parts:
            index = torch.from_numpy(m.index.reshape(len(m.index), -1)).to(gates.device)
            gates = gates.index_put((index,), self._mask(g)[:, None].expand(index.shape).to(gates))
        return gates

    def _gate(self, parts: list[tuple[Group, Member]]) -> Any:
        def hook(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
            with self.clock:
                axis = output.ndim - 1 if isinstance(module, nn.Linear) else 1
                shape = [1] * output.ndim
                shape[axis] = -1
                return output * self._over(parts, output.shape[axis]).to(output.dtype).view(shape)

        return hook

    def before_step(self, step: int, steps: int, per_epoch: float) -> None:
        """Set the temperature of a training step; harden where its share of the training is reached."""
        self._trained = True
        at = math.floor(step / per_epoch) * per_epoch if self.update == "epoch" else step
        self.tau = temperature(at / steps, self.start, self.end, self.first, self.last)
        if at / steps >= self.end and not self._fixed:
            self._harden()

    def _harden(self) -> None:
        self._fixed = {name: w.detach().cpu().clone() for name, w in self._gates.items()}

    def state(self) -> dict[str, Any]:
        """What a killed training goes on from, besides the network's own parameters."""
        return {"fixed": dict(self._fixed)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._fixed = dict(state["fixed"])

    def detach(self) -> None:
        """Take the gates off; after training their masks go into the weights, so that the network computes what it did."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        if self._net is None:
            return
        if not self._fixed:
            self._harden()
        if self._trained:
            self._settle(self._net)
        delattr(self._net, _PLACE)
        self._net = None

    @torch.no_grad()
    def _settle(self, net: nn.Module) -> None:
        for g in self._groups:
            for m in self._members(g):
                layer = net.get_submodule(m.module)
                for name, p in layer.named_parameters(recurse=False):
                    axis = int(isinstance(layer, nn.ConvTranspose2d) and name == "weight")
                    rows = p.movedim(axis, 0)
                    gates = self._over([(g, m)], len(rows)).to(p)
                    rows *= gates.view(-1, *[1] * (rows.ndim - 1))

    def scores(self) -> dict[str, np.ndarray]:
        """group -> (units,) z - x0; a group that stays whole lies above 0 as a whole."""
        found = {}
        for g in self._groups:
            z, k = standardised(self._fixed[g.name].double()), kept(g.size, self.keep, self.least)
            if k >= g.size:  # also a group of one, whose std is not a number
                z = self._fixed[g.name].double()
                found[g.name] = (z - z.min() + 1).numpy()
            else:
                found[g.name] = (z - threshold(z, k)).numpy()
        return found
