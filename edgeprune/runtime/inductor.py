"""AOTInductor: a network compiled ahead of time by PyTorch itself, for GPUs without TensorRT, for CPUs, and as a cross-check.

A package is code: a shared library inside a zip file, which runs when it is loaded. So nothing here loads a file that it is
given. An engine is loaded by the process that compiled it, out of a network that it holds, and its checksum is compared in
between; packages are never put into bundles, and a run that goes on in another process compiles again.

Compiled and run on CPUs in the tests; the GPU's part (CUDA graphs) is not run on hardware yet.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.errors import EngineError
from edgeprune.files import sha256, write_json
from edgeprune.runtime.engine import Layer, one_by_one

_NAMES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


@dataclass(frozen=True)
class Package:
    """What this process has compiled: the file and its checksum, where it runs, and what its convolutions run at."""

    path: Path
    sha256: str
    device: str
    precision: str
    size: tuple[int, ...]


def version() -> str:
    """The backend's name and version, as engines carry it."""
    import torch

    return f"inductor {torch.__version__}"


def why_not(device: str) -> str | None:
    """Why engines cannot be compiled and run here; None where they can."""
    import torch

    compiler = os.environ.get("CXX", "clang++" if os.uname().sysname == "Darwin" else "g++")
    if shutil.which(compiler) is None:
        return f"PyTorch's inductor wants a C++ compiler, and {compiler} is not found (apt install g++, or set CXX)"
    if device.startswith("cuda") and not torch.cuda.is_available():
        return "PyTorch finds no CUDA GPU here"
    return None


def compile(
    graph: Any,
    home: Path,
    *,
    precision: str,
    device: str = "cpu",
    threads: int = 0,
    calibration: Iterable[np.ndarray] = (),
) -> InductorEngine:
    """Compile to `home/engine.pt2` and load it.

    Args:
        graph: a `torch.export.ExportedProgram` of uint8 (1, H, W, 3) images on `device`, with the precision inside.
        threads: of the compiled code; 0: as many as PyTorch has.

    Raises:
        EngineError: no compiler or GPU, a program that cannot be compiled, or convolutions at another precision.
    """
    return InductorEngine(package(graph, home, precision=precision, device=device, threads=threads))


def package(graph: Any, home: Path, *, precision: str, device: str = "cpu", threads: int = 0) -> Package:
    """Compile only; see `compile`."""
    import torch
    from torch._inductor import aoti_compile_and_package

    if missing := why_not(device):
        raise EngineError(missing)
    counts = _convolutions(graph)
    found = counts.most_common(1)[0][0] if counts else "unknown"
    if found not in (precision, "unknown"):
        raise EngineError(f"{precision} was asked for, and the program's convolutions run at {found}")
    home.mkdir(parents=True, exist_ok=True)
    path = home / "engine.pt2"
    path.unlink(missing_ok=True)
    try:
        with torch.no_grad():
            aoti_compile_and_package(
                graph, package_path=str(path), inductor_configs={"cpp.threads": threads} if threads else {}
            )
    except Exception as error:  # its errors have no common class
        said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise EngineError(f"PyTorch's inductor cannot compile the network: {said.strip()[:200]}") from error
    image = next(n for n in graph.graph.nodes if n.name == graph.graph_signature.user_inputs[0])
    made = Package(path, sha256(path), device, found, tuple(image.meta["val"].shape))
    about = {"backend": version(), "device": device, "precision": found, "convolutions": dict(counts)}
    write_json(home / "engine.json", {**about, "sha256": made.sha256})
    return made


def layers(
    model: Any, *, precision: str, device: str = "cpu", threads: int = 0, runs: int = 8, warm: int = 2
) -> list[Layer]:
    """Not told by this backend.

    Raises:
        EngineError: always.
    """
    raise EngineError("PyTorch's inductor tells no times by layer")


class InductorEngine:
    """An engine; see `runtime.engine.Engine`. On a GPU one call is one CUDA graph, with both copies around it.

    Raises:
        EngineError: the file is not what this process compiled.
    """

    def __init__(self, made: Package) -> None:
        import torch
        from torch._inductor import aoti_load_package

        if sha256(made.path) != made.sha256:
            raise EngineError(f"{made.path} was changed since it was compiled; it is code and is not loaded")
        # without locks between threads, which CUDA graphs do not take
        self._run = aoti_load_package(str(made.path), run_single_threaded=True)
        self.path, self.precision, self.backend = made.path, made.precision, version()
        self._image = torch.zeros(made.size, dtype=torch.uint8, device=made.device)
        self._graph, self._answer = None, None
        if made.device.startswith("cuda"):
            self.device = f"{torch.cuda.get_device_name(made.device)} ({made.device})"
            self._capture()
        else:
            self.device = f"{torch.backends.cpu.get_cpu_capability()} CPU"

    def _capture(self) -> None:
        """Record one call as a CUDA graph, after a few calls on a stream of their own."""
        import torch

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._once()
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._answer = self._once()

    def _once(self) -> Any:
        found = self._run(self._image)
        return found[0] if isinstance(found, (tuple, list)) else found

    def _one(self, image: np.ndarray) -> np.ndarray:
        return self.bind(image)()

    def predict(self, images: np.ndarray) -> np.ndarray:
        return one_by_one(self._one, images)

    def bind(self, image: np.ndarray) -> Callable[[], np.ndarray]:
        import torch

        host = torch.from_numpy(np.array(image, order="C"))
        host = host.pin_memory() if self._graph is not None else host

        def call() -> np.ndarray:
            self._image.copy_(host, non_blocking=True)
            if self._graph is not None:
                self._graph.replay()
            else:
                self._answer = self._once()
            return self._answer.cpu().numpy()  # type: ignore[union-attr]

        return call


def _convolutions(graph: Any) -> Counter[str]:
    """How many convolutions of an exported program run at which precision."""
    nodes = (n for n in graph.graph.nodes if n.op == "call_function" and "conv" in str(n.target))
    kinds = (str(n.meta["val"].dtype).removeprefix("torch.") for n in nodes)
    return Counter(_NAMES.get(kind, kind) for kind in kinds)
