"""Profiling: measure on the device what the table lacks for a network, batch by batch; what is measured stays measured."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from math import lcm
from pathlib import Path

import numpy as np

from edgeprune.errors import EngineError
from edgeprune.measure.patience import Patience
from edgeprune.profile import probes
from edgeprune.profile.probes import REFERENCE, Key
from edgeprune.profile.spans import Operation, spans
from edgeprune.profile.staircase import STEPS, Surface, find_step
from edgeprune.profile.table import Table, Where
from edgeprune.progress import Progress
from edgeprune.runtime.engine import Layer
from edgeprune.runtime.signature import Signature

Run = Callable[[Path, str], Sequence[Layer]]  # a probe graph and a precision -> its engine's layers, on the device
_WINDOW = range(64, 129, 4)
_COMPANIONS = 16  # known convolutions that run along in a probe graph at most
_TURNS, _CHANGED, _MANY = 3, 0.1, 0.1  # of measuring again; what a change is; of the operators, that call for waiting
_QUIET = 0.03  # noise of single measurements under which a step is read as it is
_STRAIGHT = 0.05  # a middle that is off by more than this calls for a closer look


class Profiler:
    """Measures on one device at one precision, through `run`, into the table.

    Args:
        typed: see `probes.write`.
        patience: to wait for a quieter machine with, where what was measured contradicts itself; None: nothing is waited for.
    """

    def __init__(
        self,
        table: Table,
        where: Where,
        run: Run,
        quiet: bool = False,
        typed: bool = False,
        patience: Patience | None = None,
    ) -> None:
        self.table, self.where, self._run, self.quiet, self.typed = table, where, run, quiet, typed
        self.measured, self._patience = 0, patience or Patience(print, seconds=0)

    def ensure(self, keys: Iterable[Key], title: str = "profiling") -> dict[Key, float]:
        """The keys' milliseconds; those that the table lacks are measured now."""
        wanted = set(keys)
        known = self.table.times(self.where, {k.signature for k in wanted} | {REFERENCE.signature})
        missing = sorted(wanted - known.keys())
        if missing:
            with Progress(title, len(missing), quiet=self.quiet, unit="operators") as bar:
                for batch in probes.batches(missing):
                    found = self._measure(batch, known)
                    self.table.add(self.where, found)
                    known |= found
                    bar.move(len(batch))
            known |= self._settled(missing, known)
        return {k: known[k] for k in wanted if k in known}

    def _settled(self, keys: Sequence[Key], known: Mapping[Key, float]) -> dict[Key, float]:
        """Those that took clearly longer than a wider one, measured again, after waiting where they are many; what does not change by that is
        a cliff of the device's kernels."""
        times, before = dict(known), _suspicious(keys, known)
        for _ in range(_TURNS):
            if not before:
                break
            found = self._again(before)
            moved = [k for k in before if k in found and found[k] < (1 - _CHANGED) * times[k]]
            times |= found
            before = _suspicious(moved, times)
            many = len(before) > _MANY * len(keys)
            if many and not self._patience.wait(
                f"{len(before)} of {len(keys)} operators took longer than wider ones do"
            ):
                break
        return {k: times[k] for k in keys if k in times}

    def _again(self, keys: Sequence[Key]) -> dict[Key, float]:
        """Measure keys anew; the lesser of both times is kept, since what disturbs a measurement only adds to it."""
        if not keys:
            return {}
        before = self.table.times(self.where, {k.signature for k in keys} | {REFERENCE.signature})
        lesser: dict[Key, float] = {}
        for batch in probes.batches(keys):
            found = self._measure(batch, before)
            lesser |= {k: min(ms, before[k]) for k, ms in found.items() if k in before}
        self.table.add(self.where, lesser)
        return lesser

    def _measure(self, batch: Sequence[Key], known: Mapping[Key, float]) -> dict[Key, float]:
        """One probe graph; times are scaled to the speed that the machine had when what is `known` was measured.

        Other programs slow a convolution of large maps more than a small one, so known ones of a like size run along and
        tell the pace; the reference does where nothing else is nearer in size.
        """
        alike = _alike(batch, known)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "probes.onnx"
            probes.write([*batch, *alike], path, self.where.precision, self.typed)
            found, reference = probes.read([*batch, *alike], self._run(path, self.where.precision))
        lost = next((k for k in batch if k not in found), None)
        if lost:
            raise EngineError(
                f"profiling: {self.where.backend} gives no time for {lost.signature.key} {lost.inputs}->{lost.outputs}; without "
                "its times by layer a latency budget cannot be planned here: use budget.macs"
            )
        self.measured += len(batch)
        if REFERENCE not in known:  # the first of all
            return {REFERENCE: reference} | {k: found[k] for k in batch}
        paces = {REFERENCE: known[REFERENCE] / reference} | {k: known[k] / found[k] for k in alike if found.get(k)}
        return {k: found[k] * _pace(k, paces) for k in batch}

    def step(self) -> int:
        """The device's step: the widest tread over outputs and inputs of a 3x3 convolution large enough to time well.

        Noise flattens a curve, so that a step wider than the finest must be found again when its window is measured anew, by two
        measurements that agree. Where none do, a finer step is the safe one: its table is measured on more edges.
        """
        lines = [[Key(REFERENCE.signature, *((64, c) if axis else (c, 64))) for c in _WINDOW] for axis in (0, 1)]
        window = sorted({k for line in lines for k in line})
        times = self.ensure([REFERENCE, *window], "finding the device's steps")

        def widest(ms: Mapping[Key, float], noise: float = 0.0) -> int:
            curves = [{(k.outputs if axis else k.inputs): ms[k] for k in line} for axis, line in enumerate(lines)]
            return max(find_step(curve, noise) for curve in curves)

        found, before = widest(times), times
        if found == STEPS[0]:
            return found
        for turn in count():
            anew = {REFERENCE: times[REFERENCE]}
            for batch in probes.batches(window):
                anew |= self._measure(batch, {REFERENCE: times[REFERENCE]})
            noise = _noise([anew[k] / before[k] for k in window])
            least = {k: min(before[k], anew[k]) for k in anew}  # what disturbed one of them once
            found = min(found, widest(anew), widest(least))
            if found == STEPS[0] or noise <= _QUIET:
                break
            before = anew
            if turn and not self._patience.wait(
                f"a window of widths took other times by {noise:.0%} when it was measured again"
            ):
                return min(found, widest(anew, noise))  # what is sure in spite of the noise
        return found

    def surfaces(self, operations: Sequence[Operation], dense: dict[str, int], step: int) -> dict[Signature, Surface]:
        """A surface for each signature of the network, measured on its grid and refined along its edges."""
        needed = spans(operations, dense)
        grids = {s: span.grid(step, max(1, s.groups)) for s, span in needed.items()}
        times = self.ensure(
            [Key(s, i, o) for s, (ins, outs) in grids.items() for i in ins for o in outs], "latency table"
        )
        times |= self._again(_suspicious(times, times))
        for _ in range(2):
            wanted = [k for s, grid in grids.items() for k in _middles(s, *grid, times, step)]
            if not wanted:
                break
            times |= self.ensure(wanted, "refining")
        every = self.table.times(self.where, grids)
        return {
            s: Surface({(k.inputs, k.outputs): ms for k, ms in every.items() if k.signature == s}, *grid, step)
            for s, grid in grids.items()
        }


def _noise(ratios: Sequence[float]) -> float:
    """The relative standard deviation of one measurement, from ratios of two."""
    apart = np.log(ratios)
    return float(1.4826 * np.median(np.abs(apart - np.median(apart))) / np.sqrt(2))


def _alike(batch: Sequence[Key], known: Mapping[Key, float]) -> list[Key]:
    """Some known keys of the batch's signatures, of sizes spread over the batch's."""
    own, signatures = set(batch), {k.signature for k in batch}
    others = [k for k in known if k.signature in signatures and k not in own and k != REFERENCE]
    if not others:
        return []
    spread = sorted(batch, key=_macs)[:: max(1, -(-len(batch) // _COMPANIONS))]
    return sorted({min(others, key=lambda k: _apart(k, key)) for key in spread})


def _pace(key: Key, paces: Mapping[Key, float]) -> float:
    """The median pace of those within a factor of four in MACs, or that of the nearest."""
    near = [k for k in paces if _apart(k, key) < np.log(4)] or [min(paces, key=lambda k: _apart(k, key))]
    return float(np.median([paces[k] for k in near]))


def _macs(key: Key) -> int:
    return key.signature.macs(key.inputs, key.outputs)


def _apart(a: Key, b: Key) -> float:
    """How far apart two convolutions are in size: |log MACs|."""
    return abs(float(np.log(_macs(a) / _macs(b))))


def _suspicious(keys: Iterable[Key], times: Mapping[Key, float]) -> list[Key]:
    """Those that took clearly longer than one that is wider did: most of them were disturbed."""
    wanted, alike = set(keys), dict[Signature, list[Key]]()
    for key in times:
        alike.setdefault(key.signature, []).append(key)
    found = []
    for group in alike.values():
        ins, outs, ms = np.array([(k.inputs, k.outputs, times[k]) for k in group]).T
        wider = (ins >= ins[:, None]) & (outs >= outs[:, None])  # itself among them, which is no quicker than itself
        odd = ms > 1.2 * np.where(wider, ms, np.inf).min(1) + 0.002
        found += [k for k, o in zip(group, odd, strict=True) if o and k in wanted]
    return found


def _middles(s: Signature, ins: list[int], outs: list[int], times: Mapping[Key, float], step: int) -> list[Key]:
    """Counts to measure next along both edges: the middles of gaps that are new, or whose neighbourhood is not straight."""
    wanted = []
    steps = (step, lcm(step, max(1, s.groups)))
    for axis, rungs, far in ((0, ins, outs[-1]), (1, outs, ins[-1])):
        edge = steps[axis]

        def key(count: int, axis: int = axis, far: int = far) -> Key:
            return Key(s, *((far, count) if axis else (count, far)))

        counts = sorted(c for c in range(rungs[0], rungs[-1] + 1) if key(c) in times and (c % edge == 0 or c in rungs))
        for before, after in zip(counts, counts[1:], strict=False):
            middle = (before + after) // 2 // edge * edge
            if before < middle < after and (
                before in rungs and after in rungs or _bent(times, key, counts, before, after)
            ):
                wanted.append(key(middle))
    return wanted


def _bent(times: Mapping[Key, float], key: Callable[[int], Key], counts: list[int], before: int, after: int) -> bool:
    """Does a measured middle on either side of this gap lie off the straight line?"""
    place = counts.index(before)
    for start in (place - 1, place):
        if start < 0 or start + 2 >= len(counts):
            continue
        a, b, c = counts[start : start + 3]
        line = times[key(a)] + (times[key(c)] - times[key(a)]) * (b - a) / (c - a)
        if abs(times[key(b)] - line) > _STRAIGHT * line:
            return True
    return False
