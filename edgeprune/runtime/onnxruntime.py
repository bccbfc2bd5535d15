"""ONNX Runtime on the CPU, in f32: the second opinion on every graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.errors import EngineError
from edgeprune.runtime.engine import one_by_one


class OnnxRuntimeEngine:
    """An engine; see `runtime.engine.Engine`."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        if threads:
            options.intra_op_num_threads = threads
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common class of their own
            raise EngineError(f"ONNX Runtime cannot load {path}: {str(error).strip().splitlines()[0]}") from error
        self._input = self._session.get_inputs()[0].name
        self.backend, self.device = f"onnxruntime {ort.__version__}", "CPU"
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
