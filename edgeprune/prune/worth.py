"""What keeping so many channels of a group is worth: the values that the knapsack adds up over groups.

Scores of different layers rarely share a unit, so two measures are offered:

`sensitivity` (ours, the default): the criterion only orders the channels *inside* a group. What the first k of them are
worth is measured: how far the network's own answers move (mean KL divergence of softmax; for detection see
`train.boxes.divergence`) when that group alone is cut to k (others whole, no labels), on a few calibration images. One unit
for every layer and criterion; costs one forward pass a group and share. `stages.recovery` measures what part of each group's
loss a short training leaves (`Losses.stays`).
`score`: the kept share of the group's score mass, above its lowest score, times the square root of its size. Within a
layer this ranks like the score itself; between layers it says "a tenth of this layer's evidence", which is the weakest
assumption that makes them addable, and the root keeps wide layers from being outvoted by many narrow ones.
`sum`: the scores themselves, for criteria whose scores share a unit over layers (HALP's saliency).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from edgeprune.models import logits_of
from edgeprune.prune.allocate import Scores, Steps, step_of
from edgeprune.prune.blocks import Blocks
from edgeprune.prune.cost import Widths
from edgeprune.prune.cutter import Cutter
from edgeprune.prune.knapsack import Values


@dataclass(frozen=True)
class Losses:
    """What cuts cost in the network's own answers."""

    curves: dict[str, dict[int, float]]  # group -> kept -> loss
    removed: dict[str, float]  # block -> loss
    stays: dict[str, float] = field(default_factory=dict)  # group -> share of its loss that a short training leaves
    power: float = 1.0  # of that share, for the whole fine-tuning: it heals by a power law of its steps
    drift: float = 0.0  # the loss of the network that nothing was cut from, after that training
    common: float = 1.0  # the share of all groups' losses together

    def after(self, power: float) -> dict[str, dict[int, float]]:
        """The curves after training; `power` 0: none, 1: the short one."""
        return {n: {k: v * self.stays.get(n, 1.0) ** power for k, v in c.items()} for n, c in self.curves.items()}


SHARES = (0.75, 0.5, 0.25, 0.1)
_TIE = 1e-4  # of the whole value: among equals the criterion's own mass decides, and free channels are kept


def candidates(sizes: dict[str, int], floors: dict[str, int], step: Steps) -> dict[str, list[int]]:
    """Widths on the device's step, from the floor to the whole; a width inside a step costs what its edge costs."""
    edges = {n: range(step_of(step, n), size, step_of(step, n)) for n, size in sizes.items()}
    return {n: sorted({w for w in edges[n] if w >= floors[n]} | {size}) for n, size in sizes.items()}


def by_score(scores: Scores, widths: dict[str, list[int]]) -> Values:
    """Values from the criterion's scores alone."""
    found: Values = {}
    for name, score in scores.items():
        mass = np.sort(np.nan_to_num(score, posinf=float(np.nanmax(score[np.isfinite(score)], initial=1.0))))[::-1]
        mass = mass - mass.min() + 1e-9 + 0.05 * float(np.ptp(mass))  # the lowest channel is worth something, too
        share = np.concatenate([[0.0], np.cumsum(mass) / mass.sum()])
        found[name] = {w: float(share[w]) * len(score) ** 0.5 for w in widths[name]}
    return found


def by_sum(scores: Scores, widths: dict[str, list[int]]) -> Values:
    """Values as HALP adds them up: the sum of the kept scores; what has nothing to be judged by counts as the best.

    Scores below 0 (SIRFP's) are counted from the least of all: a channel that stays is never worth less than one that goes.
    """
    least = min((float(s[np.isfinite(s)].min(initial=0.0)) for s in scores.values()), default=0.0)
    scores = {name: s - least for name, s in scores.items()}
    best = max((float(s[np.isfinite(s)].max(initial=0.0)) for s in scores.values()), default=0.0)
    found: Values = {}
    for name, score in scores.items():
        prefix = np.concatenate([[0.0], np.cumsum(np.sort(np.nan_to_num(score, posinf=best))[::-1])])
        found[name] = {w: float(prefix[w]) for w in widths[name]}
    return found


def by_sensitivity(losses: dict[str, dict[int, float]], scores: Scores, widths: dict[str, list[int]]) -> Values:
    """Values from measured losses (`sensitivity`): minus the loss, straight between the measured widths and on to narrower ones."""
    mass = by_score(scores, widths)
    scale = max((max(curve.values()) for curve in losses.values()), default=1.0) or 1.0
    found: Values = {}
    for name, curve in losses.items():
        counts, rising = _falling(curve)
        found[name] = {
            w: -float(np.interp(w, counts, rising)) + _TIE * scale * mass[name][w] / len(scores[name]) ** 0.5
            for w in widths[name]
        }
    return found


def _falling(curve: dict[int, float]) -> tuple[list[int], list[float]]:
    """Widths from 0 up, and losses: narrower is never better, and below the least measured width it goes on as above it."""
    counts = sorted(curve)
    losses = np.maximum.accumulate([curve[c] for c in counts][::-1])[::-1].tolist()
    steep = (losses[0] - losses[1]) / (counts[1] - counts[0]) if len(counts) > 1 else 0.0
    return [0, *counts], [losses[0] + steep * counts[0], *losses]


def evened(values: Values, losses: dict[str, dict[int, float]], strength: float) -> Values:
    """Values less a price on uneven cuts: `strength` times the groups' mean loss at half width, times log2(whole / kept) squared.

    Ours. A loss is measured with all other groups whole, and what a cut layer makes good, it makes good with channels that are
    to go as well; so losses of single groups say too little of deep cuts. How much too little is not known: a contest tries strengths.

    Args:
        losses: group -> kept -> loss, up to the whole width.
    """
    sizes = {name: max(curve) for name, curve in losses.items()}
    half = [np.interp(sizes[n] / 2, sorted(c), [c[k] for k in sorted(c)]) for n, c in losses.items()]
    price = strength * float(np.mean(half)) if half else 0.0
    return {
        name: {w: value - price * float(np.log2(sizes[name] / w)) ** 2 for w, value in options.items()}
        for name, options in values.items()
    }


class Yardstick:
    """How far a network's answers are from those of the dense one, on average over images.

    The dense one is settled, too: what new statistics alone move is no cut's loss.

    Args:
        net: the dense network, on the device where all is measured.
        images: batches (B, 3, H, W), normalised; kept in memory with the network's answers. Each is seen by itself, as by an engine.
        apart: another network's answer, the dense one's -> how far they are apart (segmentation and classification: mean
            KL divergence of softmax, in nats a pixel or image).
        settle: done to every cut network before it is judged; recalibration, so that a shift which new statistics mend
            is no loss.
    """

    def __init__(
        self,
        net: nn.Module,
        images: Iterable[torch.Tensor],
        apart: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        settle: Callable[[nn.Module], None] = lambda cut: None,
    ) -> None:
        self.device = next(net.parameters()).device
        self.settle, self.apart = settle, apart
        self._images = [image.to(self.device) for b in images for image in b.split(1)]
        net = copy.deepcopy(net).eval()
        settle(net)
        with torch.no_grad():
            self._answers = [logits_of(net.eval()(b)) for b in self._images]

    def loss(self, cut: nn.Module) -> float:
        """`cut` is in evaluation mode, on `device`."""
        with torch.no_grad():
            pairs = zip(self._answers, self._images, strict=True)
            return float(np.mean([float(self.apart(logits_of(cut(b)), a)) for a, b in pairs]))


def sensitivity(
    cutter: Cutter,
    yard: Yardstick,
    blocks: Blocks,
    tick: Callable[[int], None] = lambda n: None,
) -> Losses:
    """What the yardstick says of the network with each group cut alone, and with each block removed.

    Args:
        cutter: of the dense network, where the yardstick measures.
        blocks: what may vanish.
        tick: told of every measured cut.
    """
    whole = cutter.graph.widths()

    def loss(widths: Widths) -> float:
        cut = cutter.masked({**whole, **widths}).eval()
        yard.settle(cut)
        tick(1)
        return yard.loss(cut)

    curves = {
        g.name: {k: loss({g.name: k}) for k in sorted({max(1, round(s * g.size)) for s in SHARES} - {g.size})}
        | {g.size: 0.0}
        for g in cutter.graph.groups
    }
    return Losses(curves, {name: loss(dict.fromkeys(groups, 0)) for name, groups in blocks.items()})
