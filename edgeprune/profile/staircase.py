"""A convolution's time as a function of its channel counts: which step it climbs in, and what lies between measurements.

Kernels work on blocks of channels, so time is a staircase. The step is found on a few short windows; a ladder of counts on
the step's edges is measured in two dimensions (inputs x outputs); along both edges of that grid it is refined where a
measured middle shows that the curve does not run straight.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

_RUNGS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
STEPS = (8, 16, 32, 64)


def ladder(most: int, step: int) -> list[int]:
    """Counts on the step's edges, closer together where they are small, and `most` itself."""
    return sorted({step * r for r in _RUNGS if step * r < most} | {most})


def find_step(curve: Mapping[int, float], noise: float = 0.0) -> int:
    """The widest step whose half costs as much as the whole; at least 8 (the window is not finer).

    A step of s is real where counts half-way between its edges (multiples of s/2 that are none of s) save less than half of
    what they would save if time were proportional to channels: between all and nothing, noise has the same room on both sides.
    The median over the window decides, so that single disturbed measurements do not.

    Args:
        curve: count -> ms of a window measured at every fourth count, its last a multiple of 64.
        noise: relative standard deviation of a measurement; a wider step counts only where the saving is below the half by more
            than twice its own error.
    """
    found = STEPS[0]
    for step in STEPS[1:]:
        half = step // 2
        inside = [c for c in curve if c % half == 0 and c % step and c + half in curve]
        saved = [(1 - curve[c] / curve[c + half]) / (1 - c / (c + half)) for c in inside]
        errors = [noise * 2**0.5 / (1 - c / (c + half)) for c in inside]
        if not saved or float(np.median(saved)) + 2 * float(np.linalg.norm(errors)) / len(inside) >= 0.5:
            break
        found = step
    return found


class Times(Protocol):
    """Milliseconds of one signature."""

    def at(self, inputs: int, outputs: int) -> float: ...


class Surface:
    """Milliseconds at any (inputs, outputs) of one signature, from what was measured.

    Measured counts are exact. Others are rounded up to the step's edge and interpolated on the grid, times what the
    refined edges add to it.
    """

    def __init__(
        self, times: Mapping[tuple[int, int], float], ins: Sequence[int], outs: Sequence[int], step: int
    ) -> None:
        self.exact, self.step = dict(times), step
        self.ins, self.outs = list(ins), list(outs)
        self.grid = np.array([[times[i, o] for o in outs] for i in ins])
        self._in_line = self._line(
            {i: times[i, outs[-1]] for i, o in times if o == outs[-1]}, self.ins, self.grid[:, -1]
        )
        self._out_line = self._line({o: times[ins[-1], o] for i, o in times if i == ins[-1]}, self.outs, self.grid[-1])
        self._known: dict[tuple[int, int], float] = {}

    def _line(self, measured: dict[int, float], rungs: list[int], base: np.ndarray) -> tuple[list[int], list[float]]:
        """Measured over interpolated along an edge of the grid, 1 on its rungs; only counts on the step's edges."""
        counts = [c for c in sorted(measured) if rungs[0] <= c <= rungs[-1] and (c % self.step == 0 or c in rungs)]
        return counts, [measured[c] / float(np.interp(c, rungs, base)) for c in counts]

    def at(self, inputs: int, outputs: int) -> float:
        """Milliseconds."""
        key = (inputs, outputs)
        if key in self.exact:
            return self.exact[key]
        if key not in self._known:
            self._known[key] = self._between(self._up(inputs, self.ins), self._up(outputs, self.outs))
        return self._known[key]

    def _up(self, count: int, rungs: list[int]) -> int:
        return min(-(-count // self.step) * self.step, rungs[-1]) if count not in rungs else count

    def _between(self, inputs: int, outputs: int) -> float:
        if (inputs, outputs) in self.exact:
            return self.exact[inputs, outputs]
        row, a = _place(self.ins, inputs)
        column, b = _place(self.outs, outputs)
        g = self.grid[row : row + 2, column : column + 2]
        value = (1 - a) * ((1 - b) * g[0, 0] + b * g[0, -1]) + a * ((1 - b) * g[-1, 0] + b * g[-1, -1])
        return float(value * np.interp(inputs, *self._in_line) * np.interp(outputs, *self._out_line))


def _place(rungs: list[int], count: int) -> tuple[int, float]:
    """The rung below `count` and the share of the way to the next one; below the first rung it stays there."""
    place = max(0, min(bisect_left(rungs, count) - 1, len(rungs) - 2))
    if len(rungs) == 1 or count <= rungs[0]:
        return 0, 0.0
    return place, min(1.0, (count - rungs[place]) / (rungs[place + 1] - rungs[place]))
