"""Timing two engines: warmed up until steady, then in interleaved pairs (A B A B …)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

Call = Callable[[], Any]
Pairs = tuple[
    np.ndarray, np.ndarray, list[tuple[int, bool]]
]  # milliseconds of each; (calls of warm-up, steady?) of each


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
    """(runs,) milliseconds of each, measured in turn; which of the two goes first changes every pair."""
    warm = [warm_up(a), warm_up(b)]
    times: dict[int, list[float]] = {0: [], 1: []}
    for run in range(runs):
        for which in (0, 1) if run % 2 == 0 else (1, 0):
            times[which].append(once((a, b)[which]))
    return np.array(times[0]), np.array(times[1]), warm
