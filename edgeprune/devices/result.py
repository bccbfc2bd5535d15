"""result.json as a bundle's run on the device writes it (`deploy/on_device/check.py`), read wholly and strictly.

It was made elsewhere and carried by hand: every key, type and number is checked before anything of it is kept or believed.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgeprune.documents import first_fault
from edgeprune.files import parse_json

SCHEMA = 3
_LONGEST = 600_000.0  # milliseconds of one call: ten minutes


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


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class _Told(_Part):
    """What the device says of itself: known keys have known types, and others may stand beside them."""

    model_config = ConfigDict(extra="allow")


class Clock(_Part):
    now: float
    least: float
    most: float


class Memory(_Part):
    total: Count | None
    free: Count | None
    swap: Count | None


class Fingerprint(_Told):
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


class State(_Part):
    """`measuring.state`."""

    power_mode: Text | None
    gpu_clock: Clock | None
    hottest_c: float | None
    throttling: dict[Text, Count]
    locked: bool | None


class Samples(_Part):
    """`tegrastats.summary`."""

    samples: Count
    gpu_mhz: Annotated[list[Count], Field(min_length=2, max_length=2)] | None
    hottest_c: float | None
    milliwatts: dict[Text, Count]


class During(_Part):
    """`measuring.verdict`; of the pairs with how many were disturbed."""

    before: State
    after: State
    samples: Samples | None
    throttled: Annotated[list[Text], Field(max_length=1000)]
    disturbed: Count = 0
    busy: Count = 0


class Series(_Part):
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
        return self


class Boundary(Series):
    warnings: Annotated[list[Text], Field(max_length=1000)]
    fps: Annotated[float, Field(gt=0)] | None = None
    late: Count | None = None


class Measured(_Part):
    """`measuring.measure`."""

    settings: dict[Text, Any]
    boundaries: Annotated[dict[Text, Boundary], Field(min_length=1, max_length=100)]
    during: During


class Gpu(_Told):
    cc: Text | None = None


class Key(_Told):
    """`identity.key`: what an engine was bound to."""

    onnx: Sha | None = None
    gpu: Gpu | None = None


class Facts(_Told):
    """Of an engine, by its backend."""

    key: Key | None = None


class RanOn(_Part):
    device: Text
    dla: Count | None
    threads: Count


class Speedup(_Part):
    median: Annotated[float, Field(gt=0)]
    ci95: Annotated[list[float], Field(min_length=2, max_length=2)]


class Gate(_Part):
    name: Text
    limit: float
    value: float | None
    passed: bool


Layer = (
    tuple[Text, Text, Annotated[float, Field(ge=0, le=_LONGEST)]]
    | tuple[Text, Text, Annotated[float, Field(ge=0, le=_LONGEST)], list[Text]]
)


class Both(_Part):
    dense: Any
    pruned: Any


class Graphs(Both):
    dense: Sha
    pruned: Sha


class Engines(Both):
    dense: Facts
    pruned: Facts


class Layers(Both):
    dense: Annotated[list[Layer], Field(max_length=100_000)]
    pruned: Annotated[list[Layer], Field(max_length=100_000)]


class Judged(_Part):
    """`score.judge`, `score.accuracy`."""

    miou: Share | None = None
    iou_per_class: dict[Text, Share | None] | None = None
    top1: Share | None = None
    accuracy_per_class: dict[Text, Share | None] | None = None


class Result(_Part):
    version: Annotated[Literal[3], Field(alias="schema")]  # SCHEMA
    recipe: Name
    target: Name
    backend: Version
    ran_on: RanOn
    precision_asked: Text
    precision_found: Text
    dense_precision_found: Text
    engines: Engines
    graphs: Graphs
    bundle: Sha
    device: Fingerprint
    during: During
    task: Literal["segmentation", "classification", "detection"]
    images: Count
    image_sums: Annotated[list[Sha], Field(min_length=1, max_length=1_000_000)]
    pytorch: Judged | None
    engine: Judged | None
    pixel_agreement: Share | None = None
    top1_agreement: Share | None = None
    box_agreement: Share | None = None
    dense_latency: Series
    latency: Series
    speedup: Speedup
    boundaries: dict[Role, Measured]
    layers: Layers | None
    gates: Annotated[list[Gate], Field(max_length=100)]
    not_judged: Annotated[list[Text], Field(max_length=100)]

    @model_validator(mode="after")
    def fits_together(self) -> Result:
        if self.images != len(self.image_sums):
            raise ValueError(f"images says {self.images}, and there are {len(self.image_sums)} image_sums")
        if self.latency.count != self.dense_latency.count:
            raise ValueError(
                f"pairs have two times each, not {self.dense_latency.count} in dense_latency and {self.latency.count} in latency"
            )
        return self


def parse(text: bytes) -> dict[str, Any]:
    """What result.json tells.

    Raises:
        ValueError: one line that names the first key that is not as `check.py` writes it.
    """
    told = parse_json(text)
    try:
        Result.model_validate_json(text)
    except ValidationError as error:
        raise ValueError(first_fault(error)) from error
    return told
