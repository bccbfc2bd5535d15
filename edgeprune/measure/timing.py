"""Measured times as records, and not as bare numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


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
