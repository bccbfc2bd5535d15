"""What a device tells of itself and of what it measured, read strictly: every key, type and number is checked.

It comes from scripts that ran elsewhere (`deploy/on_device`), by an agent's answer or in a result.zip that was carried by hand.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

_LONGEST = 600_000.0  # milliseconds of one call: ten minutes
_ROUNDED = 1e-3  # milliseconds that times may be off by as they are written


def _file_name(text: str) -> str:
    if text in ("", ".", "..") or "/" in text or "\0" in text:
        raise ValueError("must be a name without folders")
    return text


Text = Annotated[str, Field(max_length=2000)]
Name = Annotated[str, Field(max_length=200), AfterValidator(_file_name)]
Version = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^\S")]
Sha = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, lt=1 << 31)]
Ms = Annotated[float, Field(gt=0, le=_LONGEST)]
Share = Annotated[float, Field(ge=0, le=1)]
Role = Literal["dense", "pruned"]


class Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Told(Part):
    """What the device says of itself: known keys have known types, and others may stand beside them."""

    model_config = ConfigDict(extra="allow")


class Clock(Part):
    now: float
    least: float
    most: float


class Memory(Part):
    total: Count | None
    free: Count | None
    swap: Count | None


class Fingerprint(Told):
    """`board.fingerprint`."""

    machine: Text | None = None
    system: Text | None = None
    python: Text | None = None
    board: Text | None
    module: Text | None = None
    l4t: Text | None = None
    cpu: Text | None
    cores: Count | None = None
    governor: Text | None = None
    power_mode: Text | None = None
    gpu_clock: Clock | None = None
    driver: Text | None = None
    gpu: Text | None = None
    load_1min: float | None = None
    hottest_c: float | None = None
    memory_mb: Memory | None = None


class State(Part):
    """`measuring.state`."""

    power_mode: Text | None
    gpu_clock: Clock | None
    hottest_c: float | None
    throttling: dict[Text, Count]
    locked: bool | None


class Samples(Part):
    """`tegrastats.summary`."""

    samples: Count
    gpu_mhz: Annotated[list[Count], Field(min_length=2, max_length=2)] | None
    hottest_c: float | None
    milliwatts: dict[Text, Count]


class During(Part):
    """`measuring.verdict`; of the pairs with how many were disturbed."""

    before: State
    after: State
    samples: Samples | None
    throttled: Annotated[list[Text], Field(max_length=1000)]
    disturbed: Count = 0
    busy: Count = 0


class Series(Part):
    """`score.spread`: a series of milliseconds, and what was boundary and warm-up."""

    count: Count
    p50: Ms
    p90: Ms
    p95: Ms
    p99: Ms
    min: Ms
    mean: Ms
    cv: Annotated[float, Field(ge=0)]
    times_ms: Annotated[list[Ms], Field(min_length=1, max_length=1_000_000)]
    boundary: Text
    warmup: Count
    steady: bool

    @model_validator(mode="after")
    def counted(self) -> Series:
        if self.count != len(self.times_ms):
            raise ValueError(f"count says {self.count}, and there are {len(self.times_ms)} times_ms")
        times = np.array(self.times_ms)
        found = dict(zip(("p50", "p90", "p95", "p99"), np.percentile(times, [50, 90, 95, 99]), strict=True))
        for key, ms in (found | {"min": times.min(), "mean": times.mean()}).items():
            if abs(getattr(self, key) - ms) > 1e-3 * ms + _ROUNDED:
                raise ValueError(f"{key} says {getattr(self, key):.6g} ms, and its times_ms give {ms:.6g}")
        return self


class Boundary(Series):
    warnings: Annotated[list[Text], Field(max_length=1000)]
    fps: Annotated[float, Field(gt=0)] | None = None
    late: Count | None = None


class Measured(Part):
    """`measuring.measure`."""

    settings: dict[Text, Any]
    boundaries: Annotated[dict[Text, Boundary], Field(min_length=1, max_length=100)]
    during: During


class Gpu(Told):
    """`engines.Cuda.device`."""

    cc: Text | None = None


Layer = (
    tuple[Text, Text, Annotated[float, Field(ge=0, le=_LONGEST)]]
    | tuple[Text, Text, Annotated[float, Field(ge=0, le=_LONGEST)], list[Text]]
)
