"""Timing engines: warmed up until steady, in interleaved pairs (A B A B …), kept as records and not as bare numbers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Call = Callable[[], Any]


@dataclass(frozen=True)
class Measurement:
    """Latency of one engine, milliseconds a call."""

    boundary: str  # "engine": inputs and outputs in place; "with copies"; "image to mask"
    count: int
    warmup: int
    steady: bool
    p50: float
    p90: float
    p99: float
    min: float
    mean: float
    cv: float
    backend: str
    precision: str
    device: str
    times_ms: list[float]

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @property
    def fps(self) -> float:
        """Images a second at the median."""
        return 1000 / self.p50


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


def interleaved(a: Call, b: Call, runs: int) -> tuple[np.ndarray, np.ndarray, list[tuple[int, bool]]]:
    """(runs,) milliseconds of each, measured in turn; which of the two goes first changes every pair."""
    warm = [warm_up(a), warm_up(b)]
    times: dict[int, list[float]] = {0: [], 1: []}
    for run in range(runs):
        for which in (0, 1) if run % 2 == 0 else (1, 0):
            times[which].append(once((a, b)[which]))
    return np.array(times[0]), np.array(times[1]), warm


def measurement(
    times: np.ndarray,
    warm: tuple[int, bool],
    *,
    backend: str,
    precision: str,
    device: str,
    boundary: str = "image to mask",
) -> Measurement:
    """The record of a series of times."""
    p50, p90, p99 = (float(v) for v in np.percentile(times, [50, 90, 99]))
    return Measurement(
        boundary, len(times), warm[0], warm[1], p50, p90, p99, float(times.min()), float(times.mean()),
        float(times.std() / times.mean()), backend, precision, device, [round(float(t), 4) for t in times],
    )  # fmt: skip
