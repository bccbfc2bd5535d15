"""What every backend's engine can do, and what a backend module offers.

A backend module has `compile(onnx, home, ...) -> Engine`, which builds an engine and leaves its files in `home`,
`layers(model, ...) -> list[Layer]`, which runs a graph and says how long each of its operators took, `why_not(device)`, why
engines cannot be run here, and `version()`. One that builds engines for devices that are elsewhere has `ahead(...)` too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

DISTURBED = 1.2  # a quiet machine's lower quartile is within a few percent of its least time


class Layer(NamedTuple):
    """One operator of an engine as it ran: its name in the ONNX graph, its kind, milliseconds, in the order it ran."""

    name: str
    kind: str
    ms: float


class Engine(Protocol):
    """A compiled graph of uint8 (1, H, W, 3) images to uint8 (1, H, W) classes, or to float32 logits or raw heads.

    `precision` is read back from the engine's own description of its convolutions, not what was asked for.
    """

    backend: str  # name and version
    device: str
    precision: str
    path: Path

    def predict(self, images: np.ndarray) -> np.ndarray:
        """(B, H, W, 3) uint8 to (B, ...), the graph's first output; images run one by one."""
        ...

    def bind(self, image: np.ndarray) -> Callable[[], Any]:
        """A call that runs one (1, H, W, 3) image from host memory to its answer in host memory, for timing."""
        ...


def typed(graph: Path, precision: str) -> Path:
    """The graph with the precision inside (`NAME.f16.onnx`), where one lies beside `graph` (`NAME.onnx`); else itself."""
    beside = graph.with_suffix(f".{precision}.onnx")
    return beside if beside.exists() else graph


def flagged(graph: Path, precision: str) -> Path | None:
    """The graph for a builder that has flags for the precision and reads no other types than f32 (`NAME.int8.flags.onnx`)."""
    beside = graph.with_suffix(f".{precision}.flags.onnx")
    return beside if beside.exists() else None


def built_of(graph: Path, precision: str) -> Path:
    """Where an engine lies that is taken as built (`NAME.f16.engine`), if there is one."""
    return graph.with_suffix(f".{precision}.engine")


def one_by_one(call: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> np.ndarray:
    """Run a batch-1 engine over (B, H, W, 3) images."""
    return np.concatenate([call(np.ascontiguousarray(images[i : i + 1])) for i in range(len(images))])


def enough(runs: int, warm: int, warm_s: float = 0.1, runs_s: float = 0.25, most: int = 400) -> Iterator[bool]:
    """Go on running: False while warming up, then True for every run that counts.

    At least `warm` and `runs` of them, and at least so many seconds of each: a call of a millisecond says little in eight.
    """
    started, done = time.perf_counter(), 0
    while done < warm or (time.perf_counter() - started < warm_s and done < most):
        yield False
        done += 1
    started, done = time.perf_counter(), 0
    while done < runs or (time.perf_counter() - started < runs_s and done < most):
        yield True
        done += 1


def middle(times: Iterable[Sequence[float] | np.ndarray]) -> list[float]:
    """Of each operator's times the lower quartile, or the least where even that was disturbed.

    What disturbs a measurement only ever adds to it. On a busy machine an operator that runs on several cores waits for the
    slowest one in most of its runs; its quartile then tells of the others' work, and the least time of its own.
    """
    found = [(float(np.min(t)), float(np.percentile(t, 25))) for t in times]
    return [quarter if quarter <= DISTURBED * least else least for least, quarter in found]


def noise(shape: list[int], dtype: Any) -> np.ndarray:
    """An input for timing: bytes over their whole range, floats around zero."""
    rng = np.random.default_rng(0)
    if np.issubdtype(dtype, np.integer):
        return rng.integers(0, 256, shape).astype(dtype)
    return rng.standard_normal(shape, dtype=np.float32).astype(dtype)
