"""result.json as a bundle's run on the device writes it (`deploy/on_device/check.py`), read wholly and strictly.

It was made elsewhere and carried by hand: every key, type and number is checked before anything of it is kept or believed.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from edgeprune.devices.told import (  # fmt: skip
    Count,
    During,
    Fingerprint,
    Gpu,
    Layer,
    Measured,
    Name,
    Part,
    Role,
    Series,
    Sha,
    Share,
    Text,
    Told,
    Version,
)
from edgeprune.documents import first_fault
from edgeprune.files import parse_json

SCHEMA = 3


class Key(Told):
    """`identity.key`: what an engine was bound to."""

    onnx: Sha | None = None
    gpu: Gpu | None = None


class Facts(Told):
    """Of an engine, by its backend."""

    key: Key | None = None


class RanOn(Part):
    device: Text
    dla: Count | None
    threads: Count


class Speedup(Part):
    median: Annotated[float, Field(gt=0)]
    ci95: Annotated[list[float], Field(min_length=2, max_length=2)]


class Gate(Part):
    name: Text
    limit: float
    value: float | None
    passed: bool


class Both(Part):
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


class Judged(Part):
    """`score.judge`, `score.accuracy`."""

    miou: Share | None = None
    iou_per_class: dict[Text, Share | None] | None = None
    top1: Share | None = None
    accuracy_per_class: dict[Text, Share | None] | None = None


class Result(Part):
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
