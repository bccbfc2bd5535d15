"""CCGN: channel gating with batch shaping (Bejnordi et al., ICLR 2020, arXiv 1907.06627). For comparison only.

Each image chooses its own channels: a small network looks at a layer's input and switches the layer's channels.
    logits = MLP(GAP(x));  training: m = 1[sigmoid((logits + logistic noise) / tau) > 0.5], straight-through gradient
    evaluation: m = 1[logits > 0];  y = m * layer(x)
    L = L_task + shaping(t) * sum over gates of mean_n (n / (N + 1) - F_Beta(p_(n); 0.6, 0.4))^2 + l0(t) * mean P(on)
with p_(n) the sorted probabilities of one channel over the N images of a batch.

A *dynamic* method: what it saves differs from image to image, so nothing is cut. An engine compiled by OpenVINO or TensorRT
computes every channel and then multiplies by zero: it does not profit at all, and gains nothing that could be shipped. What is
reported is the average of the MACs that an ideal executor would do (`benchmarks/methods/ccgn.py`), gates included.

Exact (after the paper's abstract and its released loss): the gates, the loss (mean over n), the prior. Our readings: gated are the
channels that a single layer produces and no sum or depthwise layer shares (in residual blocks the inner ones), behind the norm; tau = 2/3;
the shaping falls linearly to 0 over the first half of the training, the L0 term rises linearly over the second.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from scipy.special import betainc, betaln
from torch import nn

_PLACE = "ccgn_gates"


class BetaCDF(torch.autograd.Function):
    """F_Beta(x; a, b), elementwise; its derivative is the density."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, a: float, b: float) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.shape = (a, b)
        return torch.from_numpy(betainc(a, b, x.detach().double().cpu().numpy())).to(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # type: ignore[override]
        (x,), (a, b) = ctx.saved_tensors, ctx.shape
        x = x.clamp(1e-3, 1 - 1e-3)  # the density is infinite at the ends where a or b is under 1
        density = torch.exp((a - 1) * x.log() + (b - 1) * (1 - x).log() - float(betaln(a, b)))
        return gradient * density, None, None


def batch_shaping(probabilities: torch.Tensor, a: float = 0.6, b: float = 0.4) -> torch.Tensor:
    """(N, C) gates' probabilities to (C,) mean squared distances of their distribution function from Beta(a, b)'s."""
    count = len(probabilities)
    steps = torch.arange(1, count + 1, device=probabilities.device)[:, None] / (count + 1)
    cdf: torch.Tensor = BetaCDF.apply(probabilities.float().sort(dim=0).values, a, b)  # type: ignore[assignment]
    return (steps - cdf).square().mean(dim=0)


class Gate(nn.Module):
    """(B, I, H, W) input of a layer to (probabilities, mask), (B, C) each; every gate is open at the start."""

    def __init__(self, inputs: int, channels: int, hidden: int = 16, tau: float = 2 / 3) -> None:
        super().__init__()
        self.one, self.two, self.tau = nn.Linear(inputs, hidden), nn.Linear(hidden, channels), tau
        nn.init.constant_(self.two.bias, 2.0)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.two(torch.relu(self.one(x.mean(dim=(2, 3)))))
        if not self.training:
            return torch.sigmoid(logits), (logits > 0).to(x.dtype)
        u = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)
        soft = torch.sigmoid((logits + u.log() - (1 - u).log()) / self.tau)
        return torch.sigmoid(logits), (soft > 0.5).to(x.dtype) + (soft - soft.detach())


@dataclass(frozen=True)
class Place:
    """A group whose channels are one layer's alone: the layer, where its output is gated, and its width."""

    group: str
    layer: str
    tap: str
    channels: int


class Gating:
    """Gates on a network's layers; they become parameters of it, so they are trained and kept with it.

    Args:
        shaping: weight of the batch-shaping loss at the start.
        l0: weight of the mean probability of being on, at the end; it sets how much is switched off.
    """

    def __init__(self, net: nn.Module, places: list[Place], shaping: float = 1.0, l0: float = 0.5) -> None:
        self.net, self.places, self.shaping, self.l0 = net, places, shaping, l0
        self.seconds = (
            0.0  # of forward passes through the gates and of the added loss; their backward passes are not among these
        )
        self.masks: dict[str, torch.Tensor] = {}  # group -> (B, C) of the last batch
        self._probabilities: dict[str, torch.Tensor] = {}
        self._done = 0.0
        self.gates = nn.ModuleList(
            Gate(int(net.get_submodule(p.layer).in_channels), p.channels)  # type: ignore[arg-type]
            for p in places
        )
        net.add_module(_PLACE, self.gates)
        self._hooks = []
        for place, gate in zip(places, self.gates, strict=True):
            self._hooks.append(net.get_submodule(place.layer).register_forward_pre_hook(self._look(place, gate)))
            self._hooks.append(net.get_submodule(place.tap).register_forward_hook(self._switch(place)))

    def _look(self, place: Place, gate: nn.Module) -> Any:
        def hook(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            with self._timed():
                self._probabilities[place.group], self.masks[place.group] = gate(args[0])

        return hook

    def _switch(self, place: Place) -> Any:
        def hook(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
            with self._timed():
                return output * self.masks[place.group][:, :, None, None]

        return hook

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - started

    def before_step(self, step: int, steps: int, per_epoch: float) -> None:
        """Where the training is: shaping first, sparsity then (for `train.loop.Hooks`)."""
        self._done = step / steps

    def term(self, value: torch.Tensor, output: Any, labels: torch.Tensor) -> torch.Tensor:
        """What is added to the loss (for `train.loop.Hooks`)."""
        shaping, l0 = self.shaping * max(0.0, 1 - 2 * self._done), self.l0 * max(0.0, 2 * self._done - 1)
        with self._timed():
            added = value.new_zeros(())
            for p in self._probabilities.values():
                added = added + shaping * batch_shaping(p).sum() / len(self.places)
            on = torch.cat([p.float().mean(dim=0) for p in self._probabilities.values()])
            return added + l0 * on.mean()

    def macs(self) -> int:
        """Multiply-adds of the gates' own linear layers, an image."""
        return sum(m.weight.numel() for gate in self.gates for m in gate.modules() if isinstance(m, nn.Linear))

    def widths(self) -> list[dict[str, int]]:
        """Open channels of each gated group, an image of the last batch."""
        on = {group: mask.detach().sum(dim=1).round().long().tolist() for group, mask in self.masks.items()}
        return [{group: counts[i] for group, counts in on.items()} for i in range(len(next(iter(on.values()))))]

    def remove(self) -> None:
        """Take the gates off."""
        for hook in self._hooks:
            hook.remove()
        delattr(self.net, _PLACE)
