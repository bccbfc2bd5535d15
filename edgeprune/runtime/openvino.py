"""OpenVINO: compile an ONNX graph for a CPU, GPU or NPU at an explicit precision, and read back what it really uses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.errors import EngineError
from edgeprune.files import no_space
from edgeprune.runtime.engine import Layer, enough, middle, noise, one_by_one
from edgeprune.runtime.quiet import undisturbed, waited

_FLOATS = {"f32": "f32", "f16": "f16", "bf16": "bf16", "int8": "f32"}  # what int8 graphs use between quantised layers


@cache
def core() -> Any:
    """This process's one `openvino.Core`, kept until the process ends.

    The CPU plugin gives the thread a signal stack and takes it away with its Core; of two Cores that do not end in the
    reverse order of their start, a freed stack remains, and the next signal (Ctrl-C, a data worker that ends) kills us.
    """
    import openvino as ov

    made = ov.Core()
    made.get_property("CPU", "FULL_DEVICE_NAME")  # loads the plugin before any other library's Core does
    return made


def _settings(device: str, precision: str, threads: int) -> dict[str, Any]:
    import openvino as ov

    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"}
    if device != "NPU":
        settings["INFERENCE_PRECISION_HINT"] = getattr(ov.Type, _FLOATS[precision])
    if device == "CPU":
        settings["CPU_DENORMALS_OPTIMIZATION"] = True  # near-zero weights otherwise cost up to 35x
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
    return settings


def version() -> str:
    """The backend's name and version, as engines carry it."""
    import openvino as ov

    return f"openvino {ov.__version__.split('-')[0]}"


def available() -> list[str]:
    """The devices here, such as ["CPU", "GPU"]."""
    return list(core().available_devices)


def why_not(device: str) -> str | None:
    """Why engines cannot be run here; None where they can."""
    found = available()
    if any(device in (name, name.split(".")[0]) for name in found):  # "GPU" is the first of "GPU.0", "GPU.1"
        return None
    return f"OpenVINO finds no {device} here (it finds {', '.join(found)})"


class OpenVINOEngine:
    """An engine; see `runtime.engine.Engine`."""

    def __init__(self, path: Path, device: str, precision: str, threads: int) -> None:
        try:
            self._compiled = core().compile_model(str(path), device, _settings(device, precision, threads))
        except RuntimeError as error:
            raise EngineError(
                f"OpenVINO cannot compile {path} for {device}: {str(error).strip().splitlines()[-1]}"
            ) from error
        self._request = self._compiled.create_infer_request()
        self.backend = version()
        self.device = f"{core().get_property(device, 'FULL_DEVICE_NAME')} ({device})"
        self.path, self.precision = path, self._found()

    def _found(self) -> str:
        """The precision that most convolutions run at, as the compiled graph says."""
        names: Counter[str] = Counter()
        for node in self._compiled.get_runtime_model().get_ops():
            info = node.get_rt_info()
            if "layerType" in info and info["layerType"].astype(str).startswith("Convolution"):
                names[info["runtimePrecision"].astype(str).lower()] += 1
        most = names.most_common(1)[0][0] if names else "unknown"
        return "int8" if most in ("u8", "i8") else most

    def _one(self, image: np.ndarray) -> np.ndarray:
        return np.array(self._request.infer({0: image})[self._compiled.output(0)])

    def predict(self, images: np.ndarray) -> np.ndarray:
        return one_by_one(self._one, images)

    def bind(self, image: np.ndarray) -> Callable[[], Any]:
        import openvino as ov

        kept = np.array(image, order="C")  # OpenVINO shares it and wants it writable
        self._request.set_input_tensor(ov.Tensor(kept, shared_memory=True))
        request = self._request

        def call() -> Any:
            request.infer()
            return kept

        return call


def compile(
    onnx: Path,
    home: Path,
    *,
    precision: str,
    device: str = "CPU",
    threads: int = 0,
    calibration: Iterable[np.ndarray] = (),
) -> OpenVINOEngine:
    """Convert to OpenVINO's IR (`home/engine.xml` + `.bin`), INT8 by NNCF on `calibration` images, and load it.

    Args:
        calibration: (H, W, 3) uint8 images; used for "int8" only.

    Raises:
        EngineError: the graph cannot be read, quantised or compiled.
    """
    return OpenVINOEngine(convert(onnx, home, precision, calibration), device, precision, threads)


def convert(onnx: Path, home: Path, precision: str, calibration: Iterable[np.ndarray] = ()) -> Path:
    """Write OpenVINO's IR of a graph, quantised for "int8"; gives `home/engine.xml`.

    Raises:
        EngineError: the graph cannot be read or quantised.
    """
    import openvino as ov

    home.mkdir(parents=True, exist_ok=True)
    try:
        model = ov.convert_model(str(onnx))
        if precision == "int8":
            model = _quantised(model, list(calibration))
        ov.save_model(model, str(home / "engine.xml"), compress_to_fp16=False)
    except EngineError:
        raise
    except Exception as error:  # its conversion errors have no common class
        if no_space(error, home):
            raise EngineError(f"disk full: cannot write {home}; free some space and run again") from error
        raise EngineError(f"OpenVINO cannot read {onnx}: {str(error).strip().splitlines()[-1]}") from error
    return home / "engine.xml"


def layers(
    model: Path, *, precision: str, device: str = "CPU", threads: int = 0, runs: int = 8, warm: int = 2
) -> list[Layer]:
    """How long each operator of an ONNX or IR file takes in an engine of it, on noise; `runs` runs after `warm` ones.

    Raises:
        EngineError: the graph cannot be compiled.
    """
    import openvino as ov

    try:
        compiled = core().compile_model(
            str(model), device, {**_settings(device, precision, threads), "PERF_COUNT": True}
        )
    except RuntimeError as error:
        raise EngineError(f"OpenVINO cannot compile {model}: {str(error).strip().splitlines()[-1]}") from error
    request = compiled.create_infer_request()
    for port in compiled.inputs:
        request.set_tensor(port, ov.Tensor(noise(list(port.shape), port.element_type.to_dtype())))
    rows: list[Any] = []
    times: list[list[float]] = []  # a list a run
    waits: list[float] = []
    for counts in enough(runs, warm):
        before = waited()
        request.infer()
        if not counts:
            continue
        waits.append(waited() - before)
        rows = request.get_profiling_info()
        times.append([row.real_time.total_seconds() * 1000 for row in rows])
    found = np.array(times)
    found = found[undisturbed(found.sum(1), np.array(waits), runs)]
    names = (row.node_name.removesuffix("/WithoutBiases") for row in rows)
    return [Layer(n, row.node_type, ms) for n, row, ms in zip(names, rows, middle(found.T), strict=True)]


def _quantised(model: Any, images: list[np.ndarray]) -> Any:
    import logging

    import nncf

    if not images:
        raise EngineError("INT8 needs calibration images; deploy.calibration_images")
    logging.getLogger("nncf").setLevel(logging.ERROR)
    data = nncf.Dataset([image[None] for image in images])
    return nncf.quantize(
        model, data, preset=nncf.QuantizationPreset.MIXED, subset_size=len(images), fast_bias_correction=True
    )
