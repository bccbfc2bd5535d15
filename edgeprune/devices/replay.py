"""A device that is not connected: its answers are read from the result.zip that a bundle's run brought back.

Nothing is believed that does not fit: the graphs and the images are compared by their checksums.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.devices.pairs import Pairs, meanwhile, watched
from edgeprune.devices.result import SCHEMA, parse
from edgeprune.errors import EngineError, first_line
from edgeprune.files import sha256
from edgeprune.runtime.engine import Layer, flagged, typed
from edgeprune.runtime.joining import joined
from edgeprune.target import Target, another_module

# task -> type and axes of its answers
_ANSWERS = {"segmentation": (np.uint8, 3), "classification": (np.float32, 2), "detection": (np.float32, 3)}
# bytes of the unpacked answers, and of result.json; a zip can claim any size
_LARGEST, _LARGEST_TEXT = 1 << 31, 1 << 26


def read(path: Path) -> tuple[dict[str, Any], np.ndarray]:
    """(result.json, (N, ...) answers: uint8 masks, float32 logits or raw heads) of a result.zip, wholly checked.

    Raises:
        EngineError: it is missing, damaged, or no result.
    """
    text, array = _unpacked(path)
    try:
        told = parse(text)
    except ValueError as error:
        raise EngineError(
            f"{path}: not a result of this program's bundles (schema {SCHEMA}): {error}; run the bundle again"
        ) from error
    try:
        answers = np.load(io.BytesIO(array), allow_pickle=False)
    except Exception as error:  # a header can claim any shape and type, and numpy's errors have no common class
        raise EngineError(
            f"{path}: no whole result.zip ({first_line(error)}); copy it again from the device"
        ) from error
    fits = isinstance(answers, np.ndarray) and _ANSWERS[told["task"]] == (answers.dtype.type, answers.ndim)
    if not fits or len(answers) != len(told["image_sums"]):
        raise EngineError(f"{path}: its answers do not belong to its result; run the bundle again")
    if not np.isfinite(answers).all():
        raise EngineError(f"{path}: its answers are not all finite numbers; run the bundle again")
    return told, answers


def _unpacked(path: Path) -> tuple[bytes, bytes]:
    """result.json and answers.npy."""
    try:
        with zipfile.ZipFile(path) as whole:
            sizes = [whole.getinfo(name).file_size for name in ("result.json", "answers.npy")]
            if sizes[0] > _LARGEST_TEXT or sizes[1] > _LARGEST:
                raise EngineError(f"{path}: its parts are larger than any result")
            return whole.read("result.json"), whole.read("answers.npy")
    except EngineError:
        raise
    except FileNotFoundError as error:
        raise EngineError(f"{path}: no such file") from error
    except Exception as error:  # zipfile gives what zlib, struct and the file system raise, and errors of its own
        raise EngineError(
            f"{path}: no whole result.zip ({first_line(error)}); copy it again from the device"
        ) from error


class ReplayedEngine:
    """An engine that ran elsewhere; see `runtime.engine.Engine`. It knows the answers to the bundle's images only."""

    def __init__(self, of: Replay, role: str, path: Path) -> None:
        told = of.told
        self._of, self.role, self.path = of, role, path
        self.backend = told["backend"]
        self.precision = told["precision_found" if role == "pruned" else "dense_precision_found"]
        board = told["device"]["board"] or told["device"]["cpu"] or "a machine that does not say what it is"
        self.device = f"{told['ran_on'].get('device')} of {board}, brought back"

    def predict(self, images: np.ndarray) -> np.ndarray:
        """(B, H, W, 3) uint8 to (B, ...) answers.

        Raises:
            EngineError: an image that did not travel, or the dense engine, whose answers do not come back.
        """
        if self.role != "pruned":
            raise EngineError("the dense engine's answers are not brought back; only its times are")
        return np.stack([self._of.answer(image) for image in images])

    def bind(self, image: np.ndarray) -> Callable[[], Any]:
        raise EngineError("an engine that ran elsewhere is not timed here")


class Replay:
    """A target's device as a result.zip tells of it; see `devices.Device`."""

    def __init__(self, target: Target, path: Path) -> None:
        self.target, self.path = target, path
        self.told, self.answers = read(path)
        self._at = {digest: i for i, digest in enumerate(self.told["image_sums"])}

    def unfit(self, graphs: dict[str, Path], precision: str) -> str | None:
        """Why the result is not of these graphs ({"dense": path, "pruned": path}) at this precision; None where it is."""
        if self.told["target"] != self.target.name:
            return f"it is of target {self.told['target']}, not {self.target.name}"
        for role, path in graphs.items():
            if self.told["graphs"].get(role) != sha256(path):
                return f"its {role} network is another one; make, copy and run the bundle again"
        if (ran := str(self.told["backend"]).split()[0]) != self.target.backend:
            return (
                f"it ran in {ran}, and {self.target.name} means {self.target.backend}; run the bundle without --backend"
            )
        ran_on = self.told["ran_on"]
        if (device := ran_on.get("device")) != self.target.device:
            return f"it ran on {device}, and {self.target.name} means {self.target.device}; run the bundle without --device"
        if (dla := ran_on.get("dla")) is not None:
            return (
                f"it ran on core {dla} of the DLA, and {self.target.name} means the GPU; run the bundle without --dla"
            )
        if (threads := ran_on.get("threads")) != self.target.threads:
            return f"it ran on {threads} threads, and {self.target.name} means {self.target.threads}; run the bundle without --threads"
        if reason := another_module(self.target, self.told["device"].get("board")):
            return reason
        wanted, key = self.target.catalogue and self.target.catalogue.compute_capability, self._key("pruned")
        if wanted and (found := (key.get("gpu") or {}).get("cc", wanted)) != wanted:
            return f"it ran on a GPU of compute capability {found}, that of {self.target.name} is of {wanted}"
        asked = self.told["precision_asked"]
        if asked != precision:
            return (
                f"it was built at {asked}, the run asks for {precision}; run the bundle without --precision, or the recipe "
                f"with deploy.precision={asked}"
            )
        for role, path in graphs.items():
            ways = [path, typed(path, precision), flagged(path, precision)]
            if (built := self._key(role).get("onnx")) and built not in [sha256(way) for way in ways if way]:
                return f"its {role} network has other types inside; make, copy and run the bundle again"
        shape = _shape(graphs["pruned"]) if "pruned" in graphs else (0,)
        if all(shape) and shape != (found := (1, *self.answers.shape[1:])):
            return f"its answers are of shape {found}, and its network gives {shape}; run the bundle again"
        return None

    def strange(self, images: Iterable[np.ndarray], classes: int) -> str | None:
        """Why its answers are not of these (H, W, 3) images and so many classes; None where they are."""
        if any(_digest(image) not in self._at for image in images):
            return "an image of this run is not in it; the data has changed, make the bundle again"
        if self.told["task"] == "segmentation" and (highest := int(self.answers.max())) >= classes:
            return f"its masks hold class {highest}, and there are classes 0 to {classes - 1}; run the bundle again"
        return None

    def _key(self, role: str) -> dict[str, Any]:
        """What an engine was bound to where it was built (`deploy/on_device/identity.py`); not all backends tell."""
        return (self.told["engines"].get(role) or {}).get("key") or {}

    def why_not(self) -> str | None:
        return None

    def identity(self) -> dict[str, Any]:
        """What makes a table of latencies valid."""
        return {
            k: self.told["device"].get(k) for k in ("machine", "board", "l4t", "cpu", "cores", "governor", "power_mode")
        }

    def fingerprint(self) -> dict[str, Any]:
        """What the device said about itself when it measured."""
        return self.told["device"]

    def version(self) -> str:
        return str(self.told["backend"])

    def build(self, onnx: Path, home: Path, precision: str, calibration: Iterable[np.ndarray] = ()) -> ReplayedEngine:
        """The engine that was built there of this graph."""
        return ReplayedEngine(self, onnx.stem, onnx)

    def ahead(self, onnx: Path, home: Path, precision: str) -> None:
        """Nothing: the engine has been built there."""
        return

    def layers(self, model: Path, precision: str, runs: int = 8) -> list[Layer]:
        told = self.told["layers"]
        if not told or model.stem not in told:
            raise EngineError(f"{self.told['backend']} has brought no times by layer")
        return joined(told[model.stem], model)

    def pairs(self, a: ReplayedEngine, b: ReplayedEngine, image: np.ndarray, runs: int) -> Pairs:
        """The interleaved milliseconds that were taken there, all of them, however many are asked for."""
        rows = [self.told["dense_latency" if e.role == "dense" else "latency"] for e in (a, b)]
        warm = [(int(row["warmup"]), bool(row["steady"])) for row in rows]
        slow, fast = (np.array(row["times_ms"]) for row in rows)
        pairs = Pairs(slow, fast, warm, *meanwhile(self.told["during"]))
        return watched(pairs, "the device that the bundle ran on")

    def boundaries(self, engine: ReplayedEngine, image: np.ndarray) -> dict[str, Any] | None:
        """The four boundaries of an engine as they were taken there; None where they were left out."""
        return self.told["boundaries"].get(engine.role)

    def answer(self, image: np.ndarray) -> np.ndarray:
        """The answer to one (H, W, 3) image."""
        digest = _digest(image)
        if digest not in self._at:
            raise EngineError(
                f"{self.path}: an image of this run is not in it; the data has changed, make the bundle again"
            )
        return self.answers[self._at[digest]]


def _digest(image: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()


def _shape(graph: Path) -> tuple[int, ...]:
    """Of a graph's first output; 0 where an axis has no fixed size."""
    import onnx

    first = onnx.load(str(graph), load_external_data=False).graph.output[0]
    return tuple(d.dim_value for d in first.type.tensor_type.shape.dim)
