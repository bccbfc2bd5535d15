"""TensorRT for RTX: engines for desktop GPUs, built ahead of time on any x86-64 machine and run where the GPU is.

The graph carries the precision (`deploy.precision` writes it in) and the engine takes types as it finds them; what its
convolutions run at is read from the engine's own layers, and another precision than asked for is an error. The kernels are
compiled on the GPU when an engine is first run, and kept beside it. Building is tested; running is written against the
documented interface and has not been done on hardware yet.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx as onnx_format

from edgeprune.errors import EngineError
from edgeprune.files import read_json, sha256, write_atomic, write_json
from edgeprune.runtime import cuda, tensorrt_layers
from edgeprune.runtime.engine import Layer, one_by_one, typed

INSTALL = "TensorRT for RTX is not installed here: pip install 'edgeprune[tensorrt-rtx]'"
_MODULES = ("tensorrt_rtx", "tensorrt_rtx_bindings")  # the second is the first one's content under its wheel's own name


class Built(NamedTuple):
    """An engine that was built and not loaded: its file, backend and version, GPU, and precision as its layers tell it.

    `convolutions` counts them by precision; `layers` counts the engine's layers by kind.
    """

    path: Path
    backend: str
    device: str
    precision: str
    convolutions: dict[str, int]
    layers: dict[str, int]


@cache
def module() -> Any:
    """TensorRT for RTX's Python module.

    Raises:
        EngineError: it is not installed.
    """
    for name in _MODULES:
        try:
            return importlib.import_module(name)
        except (ImportError, OSError):
            continue
    raise EngineError(INSTALL)


def installed() -> bool:
    """Can engines be built here?"""
    try:
        return bool(module())
    except EngineError:
        return False


def version() -> str:
    """The backend's name and version, as engines carry it."""
    return f"tensorrt_rtx {module().__version__}" if installed() else "tensorrt_rtx, not installed"


def why_not(device: str) -> str | None:
    """Why engines cannot be run here; None where they can."""
    return cuda.missing() if installed() else INSTALL


def ahead(onnx: Path, home: Path, *, precision: str, device: str = "GPU") -> Built | None:
    """Build `home/engine.rtx` for a GPU that need not be here, with `engine.json` that says what it is.

    Args:
        onnx: the graph; with its types at the precision inside, or with one that has them beside it (`engine.typed`).
        device: "SM86", "SM89", "SM120" (compute capability 8.6, 8.9, 12.0), or "GPU": one engine for all of them.

    Returns:
        None where TensorRT for RTX is not installed.

    Raises:
        EngineError: a node that the parser does not take, a graph that cannot be built, or convolutions that run at
            another precision than asked for.
    """
    if not installed():
        return None
    home.mkdir(parents=True, exist_ok=True)
    onnx = typed(onnx, precision)
    path, nodes = home / "engine.rtx", _convolutions(onnx)
    plan, told = _plan(onnx, device)
    found = tensorrt_layers.read(told)
    counts = tensorrt_layers.convolutions(found, nodes)
    _refuse(onnx, precision, counts)
    kinds: dict[str, int] = {}
    for layer in found:
        kinds[layer.kind] = kinds.get(layer.kind, 0) + 1
    write_atomic(path, bytes(plan))
    built = Built(path, version(), device, _most(counts), dict(counts), kinds)
    write_json(home / "engine.json", {**built._asdict(), "path": path.name, "key": _key(onnx, device, path)})
    return built


def compile(
    onnx: Path,
    home: Path,
    *,
    precision: str,
    device: str = "GPU",
    threads: int = 0,
    calibration: Iterable[np.ndarray] = (),
) -> RtxEngine:
    """Build an engine as `ahead` does, and load it on this machine's GPU.

    Raises:
        EngineError: as `ahead`, or TensorRT for RTX is not installed.
        DeviceError: no GPU here.
    """
    built = ahead(onnx, home, precision=precision, device=device)
    if built is None:
        raise EngineError(INSTALL)
    return RtxEngine(built, typed(onnx, precision))


def layers(
    model: Path, *, precision: str, device: str = "GPU", threads: int = 0, runs: int = 8, warm: int = 2
) -> list[Layer]:
    """Not told by this backend.

    Raises:
        EngineError: always.
    """
    raise EngineError("TensorRT for RTX tells no times by layer")


class RtxEngine:
    """An engine on this machine's GPU; see `runtime.engine.Engine`. Times are from host memory to host memory.

    Raises:
        EngineError: the engine is not the one that `engine.json` describes, or does not load.
        DeviceError: no GPU here.
    """

    def __init__(self, built: Built, onnx: Path) -> None:
        self.path, self.backend, self.precision = built.path, built.backend, built.precision
        about = read_json(built.path.with_name("engine.json"))
        if not isinstance(about, dict) or about.get("key") != _key(onnx, built.device, built.path):
            raise EngineError(
                f"{built.path} was changed, or built of another graph, for another GPU, by another version"
            )
        trt, self.cuda = module(), cuda.Cuda()
        gpu = self.cuda.gpu()
        self.device = f"{gpu.name} (compute capability {gpu.capability})"
        self._kernels = built.path.with_name("kernels.cache")
        self._engine = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(built.path.read_bytes())
        if self._engine is None:
            raise EngineError(f"TensorRT for RTX cannot load {built.path} on {self.device}")
        self._context = self._engine.create_execution_context(runtime_config=self._config())
        if hasattr(self._context, "nvtx_verbosity"):  # as built, DETAILED, every run would take longer to enqueue
            self._context.nvtx_verbosity = trt.ProfilingVerbosity.NONE
        self._host, self._addresses = {}, {}
        for i in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(i)
            kind = trt.nptype(self._engine.get_tensor_dtype(name))
            self._host[name] = array = np.zeros(tuple(self._engine.get_tensor_shape(name)), kind)
            self._addresses[name] = self.cuda.allocate(array.nbytes)
            self._context.set_tensor_address(name, self._addresses[name])
        self._output = next(name for name in self._host if name != "image")  # the first: classes, logits or heads
        self._run()  # compiles the kernels
        if self._cache is not None:
            write_atomic(self._kernels, bytes(self._cache.serialize()))

    def _config(self) -> Any:
        """Kernels compiled before are taken from beside the engine. No CUDA graph, which is the default: the device's scripts time
        so, too (`deploy/on_device/measuring.py`)."""
        config, self._cache = self._engine.create_runtime_config(), None
        if hasattr(config, "create_runtime_cache"):
            self._cache = config.create_runtime_cache()
            if self._kernels.exists():
                self._cache.deserialize(self._kernels.read_bytes())  # TensorRT checks GPU and versions, or takes none
            config.set_runtime_cache(self._cache)
        return config

    def _run(self) -> np.ndarray:
        self.cuda.to_device(self._addresses["image"], self._host["image"])
        if not self._context.execute_async_v3(self.cuda.stream):
            raise EngineError(f"TensorRT for RTX did not run {self.path}")
        self.cuda.to_host(self._host[self._output], self._addresses[self._output])
        self.cuda.wait()
        return self._host[self._output]

    def _one(self, image: np.ndarray) -> np.ndarray:
        self._host["image"][...] = image
        return self._run().copy()

    def predict(self, images: np.ndarray) -> np.ndarray:
        return one_by_one(self._one, images)

    def bind(self, image: np.ndarray) -> Callable[[], Any]:
        self._host["image"][...] = image
        return self._run


def _plan(onnx: Path, device: str) -> tuple[Any, str]:
    """The serialised engine, and what the builder said of its layers."""
    trt = module()

    class Listener(trt.ILogger):
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []
            self.told = ""

        def log(self, severity: Any, text: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(text)
            elif "LayerType: " in text:
                self.told = text

    listener = Listener()
    builder = trt.Builder(listener)
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # gone where there is no other way
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, listener)
    if not parser.parse(onnx.read_bytes()):
        faults = dict.fromkeys(_fault(parser.get_error(i)) for i in range(parser.num_errors))
        raise EngineError(f"TensorRT for RTX does not take {onnx}: {'; '.join(faults)}")
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)  # on by default, and no f32
    if device != "GPU":
        capability = getattr(trt.ComputeCapability, device, None)
        if capability is None:
            known = ", ".join(sorted(n for n in trt.ComputeCapability.__members__ if n.startswith("SM")))
            raise EngineError(f"target.device: TensorRT for RTX builds for {known} or GPU (any), not {device}")
        config.num_compute_capabilities = 1
        config.set_compute_capability(capability, 0)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        said = listener.errors[-1].strip().splitlines()[0][:300] if listener.errors else "no message"
        raise EngineError(f"TensorRT for RTX cannot build {onnx}: {said}")
    return plan, listener.told


def _fault(error: Any) -> str:
    """The parser's complaint: which node, and why."""
    why = error.desc().strip().splitlines()[0].removeprefix("Assertion failed: ")[:200]
    return f"{error.node_operator()} {error.node_name()}: {why}" if error.node_name() else why


def _convolutions(onnx: Path) -> set[str]:
    try:
        graph = onnx_format.load(onnx).graph
    except Exception as error:  # protobuf's errors have no common class
        raise EngineError(f"TensorRT for RTX cannot read {onnx}: it is no ONNX file") from error
    return {n.name for n in graph.node if n.op_type in ("Conv", "ConvTranspose")}


def _most(counts: Any) -> str:
    return counts.most_common(1)[0][0] if counts else "unknown"


def _refuse(onnx: Path, precision: str, counts: Any) -> None:
    found = _most(counts)
    if found not in (precision, "unknown") or (counts and found == "unknown"):
        rows = ", ".join(f"{n} {kind}" for kind, n in counts.most_common())
        raise EngineError(
            f"{onnx}: {precision} was asked for, and the engine's convolutions run at another precision ({rows}); the "
            "graph must carry the precision"
        )


def _key(onnx: Path, device: str, plan: Path) -> dict[str, str]:
    """What an engine hangs on: another value, and it is built again."""
    return {"onnx": sha256(onnx), "engine": sha256(plan), "backend": version(), "device": device}
