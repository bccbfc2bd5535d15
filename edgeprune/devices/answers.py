"""What the agent on a device answers (`deploy/on_device/agent.py`), read strictly: a job's answer is as that file writes it, or refused."""

from __future__ import annotations

import io
import json
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field, ValidationError, model_validator

from edgeprune.devices.told import Count, During, Fingerprint, Gpu, Layer, Measured, Ms, Text, Told, Version
from edgeprune.documents import first_fault
from edgeprune.errors import EngineError, first_line
from edgeprune.files import parse_json


class Hello(Told):
    fingerprint: Fingerprint
    version: Version
    gpu: Gpu | None


class Finding(Told):
    level: Literal["ok", "note", "missing"]
    what: Text
    todo: Text


class Doctor(Told):
    findings: Annotated[list[Finding], Field(max_length=1000)]


class Build(Told):
    backend: Version
    precision: Text
    engine: Text | None


class Layers(Told):
    layers: Annotated[list[Layer], Field(max_length=100_000)]


class Pairs(Told):
    a: Annotated[list[Ms], Field(min_length=1, max_length=1_000_000)]
    b: Annotated[list[Ms], Field(min_length=1, max_length=1_000_000)]
    warm: tuple[tuple[Count, bool], tuple[Count, bool]]
    during: During

    @model_validator(mode="after")
    def in_pairs(self) -> Pairs:
        if len(self.a) != len(self.b):
            raise ValueError(f"pairs have two times each, not {len(self.a)} and {len(self.b)}")
        return self


class Measure(Measured, Told):
    """`measuring.measure`, and what else the agent adds."""


class Predict(Told):
    out: Text


JOBS: dict[str, type[BaseModel]] = {
    "hello": Hello, "doctor": Doctor, "build": Build, "layers": Layers, "pairs": Pairs, "measure": Measure, "predict": Predict,
}  # fmt: skip


def parsed(text: bytes, machine: str) -> dict[str, Any]:
    """The answer of an agent's job, as JSON.

    Raises:
        EngineError: it is none.
    """
    try:
        found = parse_json(text)
    except ValueError as error:
        raise EngineError(
            f"{machine}: the agent's answer is not whole JSON ({error}); is the disk full there?"
        ) from error
    if not isinstance(found, dict):
        raise EngineError(f"{machine}: the agent's answer is a {type(found).__name__}, and not what a job answers")
    return found


def checked(found: dict[str, Any], job: str, machine: str) -> dict[str, Any]:
    """The answer to `job`, one of `JOBS`, as it came.

    Raises:
        EngineError: a key is missing or of another type, a time is not above zero and finite.
    """
    try:
        JOBS[job].model_validate_json(json.dumps(found))
    except ValidationError as error:
        raise EngineError(
            f"{machine}: the agent's answer to {job} is not as it writes them: {first_fault(error)}"
        ) from error
    return found


def array(content: bytes, images: int, machine: str) -> np.ndarray:
    """The answers to so many images, (images, ...), of a .npy file.

    Raises:
        EngineError: they are not.
    """
    try:
        found = np.load(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # a header can claim any shape and type, and numpy's errors have no common class
        raise EngineError(f"{machine}: the agent's answers are no whole array ({first_line(error)})") from error
    if not isinstance(found, np.ndarray) or found.ndim < 2 or len(found) != images or found.dtype.kind not in "uif":
        told = f"{found.dtype} of shape {found.shape}" if isinstance(found, np.ndarray) else type(found).__name__
        raise EngineError(f"{machine}: the agent's answers to {images} images are {told}")
    if not np.isfinite(found).all():
        raise EngineError(f"{machine}: the agent's answers are not all finite numbers")
    return found
