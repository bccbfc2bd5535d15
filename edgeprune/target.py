"""The target: the device that the engine is for, as one YAML file of facts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from edgeprune import documents
from edgeprune.shipped import shipped

Seconds = Annotated[int, Field(gt=0, le=7 * 86_400)]


class Catalogue(BaseModel):
    """The maker's figures. They are for reading and for planning; nothing in a report is computed from them."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    chip: str
    compute_capability: str | None = None
    module: str | None = Field(None, description='the Jetson module, as boards name themselves, such as "Orin Nano"')
    fp16_tflops: float | None = Field(None, description="dense, without sparsity")
    int8_tops: float | None = Field(None, description="dense, without sparsity")
    bandwidth_gb_s: float | None = None
    memory_gb: float | None = None
    power_modes: list[str] = []
    source: str = Field(description="where the figures are from")


class Target(BaseModel):
    """A device, its backend and the widths that it likes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
    title: str
    backend: Literal["openvino", "tensorrt", "tensorrt_rtx", "onnxruntime", "inductor"]
    device: str = Field("CPU", description="the backend's name of the device")
    precision: Literal["f32", "f16", "bf16", "int8"] = Field(description="what `precision: auto` means here")
    precisions: list[Literal["f32", "f16", "bf16", "int8"]] = Field(description="what may be asked for")
    channel_step: Annotated[int, Field(gt=0, le=4096)] = Field(
        1, description="widths that are multiples of it run well"
    )
    threads: Annotated[int, Field(ge=0, le=1024)] = Field(0, description="of the engine; 0: the backend decides")
    host: Annotated[str, Field(pattern=r"^[^\s-]\S*$")] | None = Field(
        None, description="ssh address of the device (user@board); null: this machine"
    )
    ssh: list[str] = Field([], description='more options of ssh, such as ["-p", "2222"]')
    python: str = Field("python3", description="Python on the device, with numpy and the backend's runtime")
    cool_below_c: float | None = Field(
        None, description="wait before a measurement until the device is cooler than this"
    )
    build_seconds: Seconds = Field(1800, description="how long building an engine may take over ssh")
    run_seconds: Seconds = Field(600, description="how long a measurement may take over ssh")
    catalogue: Catalogue | None = None


_MODULES = ("AGX Orin", "Orin NX", "Orin Nano", "AGX Xavier", "Xavier NX", "Thor")


def another_module(target: Target, board: str | None) -> str | None:
    """Why a board cannot be the target's: it names another Jetson module. Carriers that name none pass.

    Orin's modules share a compute capability, and their GPUs show as many multiprocessors as the power mode leaves on.
    """
    wanted = target.catalogue and target.catalogue.module
    named = next((m for m in _MODULES if m.lower() in (board or "").lower()), None)
    if not wanted or named in (None, wanted):
        return None
    return f"{board} is no {wanted}, which {target.name} means; take the target of that board"


def load_target(name: str, host: str | None = None) -> Target:
    """The target of that shipped name or path.

    Args:
        host: takes the place of the file's.

    Raises:
        RecipeError: one line with file, line, key and what would be right.
    """
    document = documents.read(documents.find(name, shipped("deploy/targets"), "target"))
    if host is not None:
        document.content["host"] = host
        document.places[("host",)] = f"--host {documents.shown(host)}"
    return documents.validated(Target, document)
