"""A device whose engines `deploy/on_device/agent.py` builds and measures, one job at a time: no torch, no edgeprune there.

The same agent runs on another machine (`ssh.Ssh`) and on this one (`here.Here`); what differs is the link to it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgeprune.devices.answers import array, checked
from edgeprune.devices.pairs import Pairs, meanwhile, watched
from edgeprune.errors import DeviceError, EngineError
from edgeprune.files import hash_obj
from edgeprune.progress import doing, passed_on
from edgeprune.runtime import openvino
from edgeprune.runtime.engine import Layer, built_of, flagged, typed
from edgeprune.runtime.joining import joined
from edgeprune.target import Target

SCRIPTS = (
    "agent.py", "isolate.py", "engines.py", "trt.py", "trt_build.py", "cuda_runtime.py", "layers.py", "identity.py",
    "measuring.py", "score.py", "board.py", "tegrastats.py", "lease.py", "doctor.py", "jetpack.py",
)  # fmt: skip

TIMED = ("layers", "pairs", "measure")  # jobs before which the agent lets the device cool down
COOLING = 180  # seconds that it gives the device for that
_REMEMBERED = 300  # seconds that a device which could not be reached is not asked again
_WAITING = b"waiting for "  # how lines of `deploy/on_device/lease.py` begin
_LINGER = 10  # seconds for the last lines of a process that has ended; one that it left behind may hold them back


class Link(Protocol):
    """The way to the agent. `name` is the machine's, for messages."""

    name: str

    def unfit(self, hello: dict[str, Any]) -> str | None:
        """Why the machine that said hello is not the target's; None where it is."""
        ...

    def put(self, files: Sequence[Path]) -> str:
        """Put files that belong together where the agent finds them, unchanged; the first one's path there."""
        ...

    def put_array(self, array: np.ndarray) -> str: ...

    def take(self, path: str) -> bytes:
        """A file's content; it is removed there."""
        ...

    def bring(self, path: str, home: Path) -> Path | None:
        """Leave an engine's file in `home`, where it costs nothing; else None."""
        ...

    def job(self, name: str, told: dict[str, Any], seconds: int, keep: str = "") -> dict[str, Any]:
        """Run the agent; its answer. The same question of a device of which the same `keep` holds is answered once.

        Raises:
            EngineError: the agent's own message.
            DeviceError: the device cannot be reached, or does not answer in time.
        """
        ...


class AgentEngine:
    """An engine on the device; see `runtime.engine.Engine`. It is timed there, by `Agent.pairs`."""

    def __init__(self, of: Agent, model: str, asked: str, path: Path, built: dict[str, Any]) -> None:
        self._of, self.model, self.asked, self.path = of, model, asked, path
        self.backend, self.precision = built["backend"], built["precision"]
        self.device = f"{of.target.device} of {of.link.name}"

    def predict(self, images: np.ndarray) -> np.ndarray:
        """(B, H, W, 3) uint8 to (B, ...) answers, run on the device."""
        return self._of.predict(self, images)

    def bind(self, image: np.ndarray) -> Callable[[], Any]:
        raise EngineError(f"an engine on {self._of.link.name} is timed by its agent, not by this process")


class Agent:
    """See `devices.Device`."""

    def __init__(self, target: Target, link: Link) -> None:
        self.target, self.link = target, link
        self._hello: dict[str, Any] | None = None
        self._out_of_reach: tuple[float, str] | None = None  # since when, why

    def why_not(self) -> str | None:
        """Why engines cannot be built and measured on the device now; None where they can."""
        if self._out_of_reach and time.monotonic() - self._out_of_reach[0] < _REMEMBERED:
            return self._out_of_reach[1]
        try:
            return self.link.unfit(self.hello())
        except (DeviceError, EngineError) as error:
            self._out_of_reach = time.monotonic(), str(error)
            return str(error)

    def hello(self) -> dict[str, Any]:
        """The device's fingerprint, GPU and backend version; asked once."""
        if self._hello is None:
            self._hello = self._job("hello", seconds=120)
        return self._hello

    def identity(self) -> dict[str, Any]:
        """What makes a table of latencies valid: the device and how it is set, not its state of the moment."""
        told, kept = self.hello()["fingerprint"], ("machine", "board", "l4t", "cpu", "cores", "governor", "power_mode")
        gpu = {"gpu": self.hello()["gpu"]} if self.hello()["gpu"] else {}
        return {k: told.get(k) for k in kept} | gpu | {"device": self.target.device, "threads": self.target.threads}

    def fingerprint(self) -> dict[str, Any]:
        """What a measurement must say about the machine, as of now."""
        return self._job("hello", seconds=120)["fingerprint"]

    def version(self) -> str:
        """The backend's name and version."""
        return str(self.hello()["version"])

    def build(self, onnx: Path, home: Path, precision: str, calibration: Iterable[np.ndarray] = ()) -> AgentEngine:
        """Give the agent the graph (for OpenVINO its IR, quantised here) and let it build."""
        home.mkdir(parents=True, exist_ok=True)
        files = [onnx]
        if self.target.backend == "openvino":
            xml = openvino.convert(onnx, home, precision, calibration)
            files = [xml, xml.with_suffix(".bin")]
        model = self.link.put(_whole(files, precision))
        built = self._job(
            "build",
            model=model,
            precision=precision,
            seconds=self.target.build_seconds,
            keep=f"{self.version()} {self.identity()}",
        )
        brought = self.link.bring(built["engine"], home) if built["engine"] else None
        return AgentEngine(self, model, precision, brought or files[0], built)

    def ahead(self, onnx: Path, home: Path, precision: str) -> None:
        """Nothing is built ahead: the device builds its engines itself."""

    def layers(self, model: Path, precision: str, runs: int = 8) -> list[Layer]:
        """How long each operator of a graph takes there."""
        files = [model, model.with_suffix(".bin")] if model.suffix == ".xml" else _whole([model], precision)
        # a probe graph of OpenVINO's INT8 table carries its own Q/DQ; the engine around it is f32
        plain = precision == "int8" and model.suffix != ".xml" and self.target.backend == "openvino"
        found = self._job(
            "layers", model=self.link.put(files), precision="f32" if plain else precision, runs=runs,
            seconds=self.target.build_seconds,
        )  # fmt: skip
        return joined(found["layers"], model)

    def pairs(self, a: AgentEngine, b: AgentEngine, image: np.ndarray, runs: int) -> Pairs:
        """Interleaved milliseconds of two engines on one (1, H, W, 3) image, taken there."""
        found = self._job(
            "pairs", model=a.model, other=b.model, image=self.link.put_array(image), precision=a.asked, runs=runs,
            other_precision=b.asked, seconds=self.target.run_seconds,
        )  # fmt: skip
        warm = [(calls, steady) for calls, steady in found["warm"]]
        slow, fast = (np.array(found[key], dtype=float) for key in "ab")
        return watched(Pairs(slow, fast, warm, *meanwhile(found["during"])), self.link.name)

    def doctor(self) -> list[dict[str, str]]:
        """What is missing there, in plain words: [{"level", "what", "todo"}]; only Python is needed for that."""
        return self._job("doctor", seconds=120)["findings"]

    def boundaries(self, engine: AgentEngine, image: np.ndarray, fps: float = 30.0) -> dict[str, Any]:
        """The engine alone, with copies, image to mask, and paced at a camera's rate; as `measuring.measure` has it."""
        found = self._job(
            "measure", model=engine.model, image=self.link.put_array(image), precision=engine.asked, fps=fps,
            seconds=self.target.run_seconds,
        )  # fmt: skip
        return {k: found[k] for k in ("settings", "boundaries", "during")}

    def predict(self, engine: AgentEngine, images: np.ndarray) -> np.ndarray:
        """Masks of (B, H, W, 3) images, (B, H, W)."""
        source = self.link.put_array(images)
        # another process may ask about the same images
        by = hash_obj([engine.model, engine.asked, time.time_ns()])[:16]
        found = self._job(
            "predict", model=engine.model, image=source, out=f"{source}.{by}.npy", precision=engine.asked,
            seconds=self.target.run_seconds,
        )  # fmt: skip
        return array(self.link.take(found["out"]), len(images), self.link.name)

    def _job(self, name: str, *, seconds: int, keep: str = "", **told: Any) -> dict[str, Any]:
        t = self.target
        cooling = COOLING if t.cool_below_c else 0
        common = {
            "backend": t.backend,
            "device": t.device,
            "threads": t.threads,
            "limit": seconds,
            "cool": (t.cool_below_c or 0) if name in TIMED else 0,
            "wait": max(t.build_seconds, t.run_seconds) + cooling + 60,  # for another job, as long as that may take
        }
        with doing(f"{name} on {self.link.name}"):
            return checked(self.link.job(name, common | told, seconds, keep), name, self.link.name)


def patience(told: dict[str, Any], seconds: int) -> int:
    """Seconds within which a job's answer must come: it waits for another one, cools down, runs, and has to be started."""
    return told["wait"] + (COOLING if told["cool"] else 0) + seconds + 60


@contextlib.contextmanager
def overheard(name: str) -> Iterator[tuple[int, list[bytes]]]:
    """A descriptor for an agent's standard error, and (behind the block) its lines. Those that say whom it waits for are passed on at
    once, as the machine `name`'s."""
    ours, theirs = os.pipe()
    lines: list[bytes] = []

    def listen() -> None:
        with open(ours, "rb") as said:
            for line in said:
                lines.append(line)
                if line.startswith(_WAITING):
                    passed_on(f"{name}: {line.decode(errors='replace').rstrip()}")

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield theirs, lines
    finally:
        os.close(theirs)
        listener.join(_LINGER)


def _whole(files: list[Path], precision: str) -> list[Path]:
    """With what lies beside a graph: the one that has the precision inside, and an engine that is taken as built."""
    beside = [typed(files[0], precision), flagged(files[0], precision), built_of(files[0], precision)]
    return files + [path for path in beside if path and path != files[0] and path.exists()]
