"""ONNX Runtime on the CPU, in f32: the second opinion on every graph."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.errors import EngineError
from edgeprune.runtime.engine import Layer, enough, middle, noise, one_by_one


def version() -> str:
    """The backend's name and version, as engines carry it."""
    import onnxruntime as ort

    return f"onnxruntime {ort.__version__}"


def why_not(device: str) -> str | None:
    """Why engines cannot be run here: they can."""
    return None


def options(threads: int = 0) -> Any:
    """Session options of every graph that is judged or timed here.

    Q/DQ pairs are computed as they stand, in floating point. Fused into INT8 kernels they would be faster, and wrong on CPUs without
    VNNI, whose 16-bit sums overflow: the masks of a sound INT8 graph then look bad on such a machine alone.
    """
    import onnxruntime as ort

    found = ort.SessionOptions()
    found.log_severity_level = 3
    found.add_session_config_entry("session.set_denormal_as_zero", "1")
    found.add_session_config_entry("session.disable_quant_qdq", "1")
    if threads:
        found.intra_op_num_threads = threads
    return found


class OnnxRuntimeEngine:
    """An engine; see `runtime.engine.Engine`."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        import onnxruntime as ort

        try:
            self._session = ort.InferenceSession(str(path), options(threads), providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common class of their own
            raise EngineError(f"ONNX Runtime cannot load {path}: {str(error).strip().splitlines()[0]}") from error
        self._input = self._session.get_inputs()[0].name
        self.backend, self.device = version(), "CPU"
        self.path, self.precision = path, "f32"

    def _one(self, image: np.ndarray) -> np.ndarray:
        return np.asarray(self._session.run(None, {self._input: image})[0])

    def predict(self, images: np.ndarray) -> np.ndarray:
        return one_by_one(self._one, images)

    def outputs(self, image: np.ndarray) -> list[np.ndarray]:
        """Every output for one (1, H, W, 3) image."""
        return [np.asarray(o) for o in self._session.run(None, {self._input: image})]

    def bind(self, image: np.ndarray) -> Callable[[], Any]:
        feed = {self._input: np.ascontiguousarray(image)}
        return lambda: self._session.run(None, feed)


def compile(
    onnx: Path,
    home: Path,
    *,
    precision: str,
    device: str = "CPU",
    threads: int = 0,
    calibration: Iterable[np.ndarray] = (),
) -> OnnxRuntimeEngine:
    """Load the graph; ONNX Runtime needs no files of its own.

    Raises:
        EngineError: another precision than f32, or a graph that it cannot load.
    """
    if precision != "f32":
        raise EngineError(f"deploy.precision: ONNX Runtime runs f32 here, not {precision}")
    return OnnxRuntimeEngine(onnx, threads)


def layers(
    model: Path, *, precision: str, device: str = "CPU", threads: int = 0, runs: int = 8, warm: int = 2
) -> list[Layer]:
    """How long each operator takes, on noise, by ONNX Runtime's own profile; `runs` runs after `warm` ones.

    Raises:
        EngineError: the graph cannot be loaded.
    """
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        told = options(threads)
        told.enable_profiling, told.profile_file_prefix = True, str(Path(folder) / "profile")
        try:
            session = ort.InferenceSession(str(model), told, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common class of their own
            raise EngineError(f"ONNX Runtime cannot load {model}: {str(error).strip().splitlines()[0]}") from error
        kinds = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}
        feeds = {i.name: noise(i.shape, kinds[i.type]) for i in session.get_inputs()}
        warmed = 0
        for counts in enough(runs, warm):
            session.run(None, feeds)
            warmed += not counts
        events = json.loads(Path(session.end_profiling()).read_text())
    times: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = (event["name"].removesuffix("_kernel_time"), event["args"]["op_name"])
            times.setdefault(name, []).append(event["dur"] / 1000)
    found = middle([t[warmed:] for t in times.values()])
    return [Layer(name, kind, ms) for (name, kind), ms in zip(times, found, strict=True)]
