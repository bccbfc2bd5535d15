"""The latency predictor: table sums, what is not a convolution, and a correction learnt from engines that were measured.

    ms(widths) = a * sum_l P_l(inputs, outputs) + b * slope * moved(widths) + c * fixed

P_l is a layer's time in its place. In an engine that was looked into it is r_l times T_l, the device's table. A ratio below 1 (the
engine fuses the layer) stays at other widths, and so does what nearly all layers have in common (the machine's pace). What is
above that is waiting for weights and maps that other layers have driven out of the caches, where a probe finds them: it falls with
the bytes that the layer moves. (Ratios above 1 that stayed made narrow bottlenecks too dear.) `moved` are the
numbers that pools, resizes and concatenations move, `fixed` what does not change with widths (input, full-size resize,
argmax, the call itself). a, b, c are 1 at first and fitted (ridge, relative error) to the engines that were measured, those that
take about as long weighing most: what a table misses of narrow layers it need not miss of wide ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeprune.profile.context import Context
from edgeprune.profile.probes import Key
from edgeprune.profile.spans import Operation
from edgeprune.profile.staircase import Times
from edgeprune.runtime.signature import Signature

_RIDGE = 0.01  # how much the prior of 1 weighs against an engine
_LIKE = 0.5  # of log ms: engines so far apart teach each other little
_OLDER = 0.4  # what an engine weighs beside the next one: ratios follow the latest


@dataclass
class Measured:
    """An engine that was measured."""

    widths: dict[str, int]
    ms: float


class Predictor:
    """Milliseconds of the engine for {group: width}.

    Args:
        operations, moves: of the channel engine.
        dense: the unpruned widths.
        surfaces: signature -> table; every convolution of `operations` has one.
    """

    def __init__(
        self,
        operations: Sequence[Operation],
        moves: Sequence[Any],
        dense: dict[str, int],
        surfaces: Mapping[Signature, Times],
    ) -> None:
        self.layers = [op for op in operations if op.signature is not None]
        self.moves, self.dense, self.surfaces = list(moves), dict(dense), surfaces
        self.ratio = {op.name: 1.0 for op in self.layers}
        # inputs and outputs that the ratio is of
        self.place = {op.name: self.key(op, self.dense)[1:] for op in self.layers}
        self.slope, self.fixed = 0.0, 0.0
        self.seen: list[Measured] = []

    def key(self, op: Operation, widths: dict[str, int]) -> Key:
        """The layer's convolution at these widths."""
        assert op.signature is not None
        return Key(op.signature, 0 if op.signature.depthwise else op.inputs.at(widths), op.outputs.at(widths))

    def table(self, op: Operation, widths: dict[str, int]) -> float:
        """The layer's milliseconds as the table has them, in its place."""
        return self._at(op.name, self._pace(), self.key(op, widths))

    def keys(self, widths: dict[str, int]) -> list[tuple[Operation, Key]]:
        """The layers that are left and their convolutions: one without inputs or outputs has vanished."""
        found = [(op, self.key(op, widths)) for op in self.layers]
        return [(op, k) for op, k in found if k.outputs and (k.inputs or k.signature.depthwise)]

    def _pace(self) -> float:
        return max(1.0, float(np.percentile(list(self.ratio.values()), 10))) if self.ratio else 1.0

    def _at(self, name: str, pace: float, key: Key) -> float:
        signature, inputs, outputs = key
        if not outputs or not (inputs or signature.depthwise):
            return 0.0
        ratio, place, table = self.ratio[name], self.place[name], self.surfaces[signature]
        if ratio <= pace:
            return ratio * table.at(inputs, outputs)
        wait, bytes_ = (ratio - pace) * table.at(*place), signature.bytes
        return pace * table.at(inputs, outputs) + wait * bytes_(inputs, outputs, 1) / bytes_(*place, 1)

    def moved(self, widths: dict[str, int]) -> float:
        """Numbers that the other operators move."""
        return float(sum(m.pixels * m.channels.at(widths) for m in self.moves if m.channels.parts))

    def terms(self, near: float | None = None) -> list[tuple[tuple[str, ...], Callable[[dict[str, int]], float]]]:
        """The prediction as a sum: (groups that a term depends on, its milliseconds).

        Args:
            near: milliseconds around which it is to hold; None: those of the latest engine.
        """
        near, pace = near or (self.seen[-1].ms if self.seen else 1.0), self._pace()
        conv, moves, fixed = (float(w) for w in self.correction(near))
        found: list[tuple[tuple[str, ...], Callable[[dict[str, int]], float]]] = [((), lambda w: fixed * self.fixed)]
        for op in self.layers:
            assert op.signature is not None
            inputs = None if op.signature.depthwise else op.inputs
            groups = {**op.outputs.parts, **(inputs.parts if inputs is not None else {})}
            found.append((tuple(groups), self._term(op, inputs, conv, pace)))
        for m in self.moves:
            if m.channels.parts:
                price = moves * self.slope * m.pixels
                found.append((tuple(m.channels.parts), lambda w, c=m.channels, p=price: p * c.at(w)))
        return found

    def _term(self, op: Operation, inputs: Any, weight: float, pace: float) -> Callable[[dict[str, int]], float]:
        name, signature, outputs = op.name, op.signature, op.outputs
        assert signature is not None
        known: dict[tuple[int, int], float] = {}

        def cost(widths: dict[str, int]) -> float:
            counts = (0 if inputs is None else inputs.at(widths), outputs.at(widths))
            if counts not in known:
                known[counts] = weight * self._at(name, pace, Key(signature, *counts))
            return known[counts]

        return cost

    def parts(self, widths: dict[str, int]) -> np.ndarray:
        """(3,) milliseconds of convolutions, moves, the fixed rest; before the correction."""
        pace = self._pace()
        conv = sum(self._at(op.name, pace, self.key(op, widths)) for op in self.layers)
        return np.array([conv, self.slope * self.moved(widths), self.fixed])

    def __call__(self, widths: dict[str, int]) -> float:
        parts = self.parts(widths)
        return float(self.correction(float(parts.sum())) @ parts)

    def correction(self, ms: float) -> np.ndarray:
        """(a, b, c) of engines that take about `ms`."""
        if not self.seen:
            return np.ones(3)
        rows = np.array([self.parts(e.widths) / e.ms for e in self.seen])
        apart = np.log([max(ms, 1e-9) / e.ms for e in self.seen]) / _LIKE
        weight = np.exp(-(apart**2)) * _OLDER ** np.arange(len(self.seen))[::-1]
        left = rows.T @ (weight[:, None] * rows) + _RIDGE * np.eye(3)
        return np.linalg.solve(left, rows.T @ weight + _RIDGE * np.ones(3))

    def anchor(self, context: Context, ms: float) -> None:
        """Take the dense engine's own profile and its measured milliseconds as the point to start from."""
        plain = {op.name: self.surfaces[k.signature].at(k.inputs, k.outputs) for op, k in self.keys(self.dense)}
        profiled = context.all_convolutions + context.between + context.around
        speed = ms / profiled if profiled else 1.0  # profiling costs some, and the machine may have changed its pace
        named = {
            op.name: float(np.mean(context.convolutions[k]))
            for op, k in self.keys(self.dense)
            if k in context.convolutions
        }
        others = sum(t for name, t in plain.items() if name not in named)
        usual = speed * max(0.0, context.all_convolutions - sum(named.values())) / others if others else 1.0
        for op, _ in self.keys(self.dense):
            ratio = speed * named[op.name] / plain[op.name] if op.name in named else usual or 1.0
            self.ratio[op.name] = float(np.clip(ratio, 0.25, 4.0))
        moved = self.moved(self.dense)
        self.slope = speed * context.between / moved if moved else 0.0
        conv = sum(self.table(op, self.dense) for op in self.layers)
        self.fixed = speed * context.around if context.convolutions else max(0.0, ms - conv - self.slope * moved)

    def learn(self, widths: dict[str, int], ms: float, context: Context | None = None) -> None:
        """A measured engine.

        Its own profile says what its convolutions take in their place: the layers' ratios follow it, since the next
        engine will be much like this one.
        """
        if context is not None and context.convolutions:
            speed = ms / (context.all_convolutions + context.between + context.around)
            for op, key in self.keys(widths):
                if times := context.convolutions.get(key):
                    plain = self.surfaces[key.signature].at(key.inputs, key.outputs)
                    self.ratio[op.name] = float(np.clip(speed * np.mean(times) / plain, 0.25, 4.0))
                    self.place[op.name] = (key.inputs, key.outputs)
        self.seen.append(Measured(dict(widths), ms))

    def learnt(self) -> dict[str, Any]:
        """What engines have taught it so far, as JSON."""
        seen = [{"widths": e.widths, "ms": e.ms} for e in self.seen]
        return {"ratio": self.ratio, "place": self.place, "seen": seen}

    def recall(self, learnt: dict[str, Any]) -> None:
        """Be as the predictor that told `learnt`."""
        self.ratio = dict(learnt["ratio"])
        self.place = {name: (inputs, outputs) for name, (inputs, outputs) in learnt["place"].items()}
        self.seen = [Measured(**e) for e in learnt["seen"]]


def errors(predicted: Sequence[float], measured: Sequence[float]) -> dict[str, float]:
    """MAPE (share), the share within 10 %, Spearman's rank correlation; of engines that were not used to fit."""
    p, m = np.asarray(predicted, float), np.asarray(measured, float)
    off = np.abs(p - m) / m
    ranks = [np.argsort(np.argsort(x)).astype(float) for x in (p, m)]
    spread = float(np.std(ranks[0]) * np.std(ranks[1]))
    spearman = float(np.mean((ranks[0] - ranks[0].mean()) * (ranks[1] - ranks[1].mean())) / spread) if spread else 1.0
    return {
        "engines": len(p), "mape": float(off.mean()), "worst": float(off.max()),
        "within_10_percent": float((off <= 0.1).mean()), "spearman": spearman,
    }  # fmt: skip
