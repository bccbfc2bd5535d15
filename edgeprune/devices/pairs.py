"""Timing two engines: warmed up until steady, then in interleaved pairs (A B A B …), without those that were disturbed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from edgeprune import progress
from edgeprune.runtime.quiet import SHARE, undisturbed, waited

Call = Callable[[], Any]
_PATIENCE = 4  # pairs taken for each that is wanted, at most


class Pairs(NamedTuple):
    """Milliseconds of two engines, pair by pair; (calls of warm-up, steady?) of each.

    `disturbed` pairs were left out, since other programs cut into them; `busy` ones are among these all the same, for want of
    better ones. `throttled` says why the device was slowed down meanwhile, a line each: such pairs say nothing about the engines alone.
    """

    slow: np.ndarray
    fast: np.ndarray
    warm: list[tuple[int, bool]]
    disturbed: int = 0
    busy: int = 0
    throttled: tuple[str, ...] = ()


def meanwhile(during: dict[str, Any]) -> tuple[int, int, tuple[str, ...]]:
    """The last three of `Pairs`, of what a device says it did meanwhile."""
    return int(during.get("disturbed", 0)), int(during.get("busy", 0)), tuple(map(str, during.get("throttled", ())))


def watched(pairs: Pairs, where: str) -> Pairs:
    """The pairs that were taken on a device, after a line for each reason why it was slowed down meanwhile."""
    for reason in pairs.throttled:
        line = f"pairs taken on {where} are not to be trusted: {reason}"
        progress.console().print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
    return pairs


def warm_up(call: Call, most: int = 60, window: int = 6, spread: float = 0.05) -> tuple[int, bool]:
    """Call until two windows' medians agree to `spread`, at most `most` times; (calls made, steady?)."""
    times = [once(call) for _ in range(2 * window)]
    while len(times) < most:
        before, after = np.median(times[-2 * window : -window]), np.median(times[-window:])
        if abs(before - after) <= spread * after:
            return len(times), True
        times.append(once(call))
    return len(times), False


def once(call: Call) -> float:
    """Milliseconds of one call."""
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000


def interleaved(a: Call, b: Call, runs: int) -> Pairs:
    """Both measured in turn; which of the two goes first changes every pair.

    Pairs in which other programs held the processor are left out and more are taken; where the machine is never quiet for so
    long, those that waited least are kept, and `busy` counts them.
    """
    warm = [warm_up(a), warm_up(b)]
    times: tuple[list[float], list[float]] = ([], [])
    waits: list[float] = []  # of each pair, the larger share
    while sum(w <= SHARE for w in waits) < runs and len(waits) < _PATIENCE * runs:
        worst = 0.0
        for which in (0, 1) if len(waits) % 2 == 0 else (1, 0):
            before = waited()
            times[which].append(once((a, b)[which]))
            worst = max(worst, (waited() - before) / max(times[which][-1], 1e-9))
        waits.append(worst)
    clean = undisturbed(np.ones(len(waits)), np.array(waits), runs)
    busy = int((np.array(waits)[clean] > SHARE).sum())
    return Pairs(np.array(times[0])[clean], np.array(times[1])[clean], warm, int((~clean).sum()), busy)
