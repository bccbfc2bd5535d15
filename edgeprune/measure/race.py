"""Racing two engines: interleaved pairs until the interval of their ratio is narrow enough to decide something; and several, in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from edgeprune.devices.pairs import Pairs
from edgeprune.measure.bootstrap import time_ratio
from edgeprune.progress import doing

K = TypeVar("K")


@dataclass(frozen=True)
class Race:
    """Milliseconds of both engines, pair by pair, and the 95 % interval of fast / slow; see `Pairs` for the rest."""

    slow: np.ndarray
    fast: np.ndarray
    warm: list[tuple[int, bool]]
    share: float
    low: float
    high: float
    disturbed: int = 0
    busy: int = 0
    throttled: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "pairs": len(self.slow), "dense_p50": float(np.median(self.slow)), "p50": float(np.median(self.fast)),
            "share": self.share, "ci95": [self.low, self.high], "disturbed": self.disturbed, "busy": self.busy,
            "throttled": list(self.throttled),
        }  # fmt: skip


@doing("timing")
def race(
    take: Callable[[int], Pairs],
    *,
    pairs: int = 20,
    most: int = 2000,
    seconds: float = 20.0,
    width: float = 0.01,
    decided: bool = False,
) -> Race:
    """Time two engines in turn.

    Args:
        take: takes so many interleaved pairs (slow, fast), on whatever device.
        pairs: at least so many, and then as many again until the interval is at most `width` of the ratio wide; up to four times
            as many where that takes no longer than getting started did (loading engines on a board, warming up).
        most, seconds: when to stop all the same (four times the seconds where the interval is still very wide).
        decided: stop also where the interval is clear of 1, by a fifth of its width: which of the two is faster is known then.
    """
    started = time.perf_counter()
    first = take(pairs)
    a, b, disturbed, busy, throttled = *first[:2], first.disturbed, first.busy, dict.fromkeys(first.throttled)
    taken, paired = 1000 * (time.perf_counter() - started), float(np.mean(a + b))
    least = int(taken / max(paired, 1e-6)) - len(a)
    while True:
        median, low, high = time_ratio(b, a)
        patience = seconds if high - low <= 3 * width * median else 4 * seconds  # somebody else is using the machine
        # more than just clear, because the interval was looked at several times
        clear = decided and max(low - 1, 1 - high) > 0.2 * (high - low)
        if clear or high - low <= width * median or len(a) >= most or time.perf_counter() - started > patience:
            return Race(a, b, first.warm, median, low, high, disturbed, busy, tuple(throttled))
        more = take(min(max(len(a), min(least, 4 * len(a))), most - len(a)))
        a, b = np.concatenate([a, more.slow]), np.concatenate([b, more.fast])
        disturbed, busy = disturbed + more.disturbed, busy + more.busy
        throttled |= dict.fromkeys(more.throttled)


def in_turns(
    takes: Mapping[K, Callable[[int], Pairs]],
    *,
    rounds: int = 10,
    pairs: int = 40,
    done: Callable[[int], None] = lambda count: None,
) -> dict[K, list[float]]:
    """Several engines' fast / slow, round by round: in every round each is timed once, in an order drawn anew.

    What a machine's pace does over a sitting falls on all of them alike, as it would not on races one after the other.

    Args:
        takes: engine -> takes so many interleaved pairs of it and what it is compared with.
        done: is told of each engine timed.
    """
    order, draw = list(takes), np.random.default_rng(0)
    found: dict[K, list[float]] = {name: [] for name in order}
    for _ in range(rounds):
        for i in draw.permutation(len(order)):
            taken = takes[order[i]](pairs)
            found[order[i]].append(float(np.median(taken.fast / taken.slow)))
            done(1)
    return found
