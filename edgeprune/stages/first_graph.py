"""The graph that ships, made of the untrained network on a small image: exported, simplified, compiled and compared."""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

import edgeprune
from edgeprune.deploy import culprit
from edgeprune.deploy.export import Heads, export
from edgeprune.deploy.plain import plain
from edgeprune.deploy.simplify import simplify
from edgeprune.devices import Device, device_of
from edgeprune.devices.local import Local
from edgeprune.errors import EdgepruneError, EngineError, ExportError, first_line
from edgeprune.files import hash_obj, write_atomic
from edgeprune.models.difference import apart
from edgeprune.models.state import tensors_of
from edgeprune.profile.table import default_path
from edgeprune.runtime.onnxruntime import OnnxRuntimeEngine
from edgeprune.target import Target, load_target

_ALIKE = 1e-2  # of the largest logit: GPUs round products to TF32
_PACKAGES = ("torch", "onnx", "onnxscript", "onnxsim", "onnxruntime")


@dataclass(frozen=True)
class Shipping:
    """How a network ships; `target` is built for where it is this machine's."""

    target: Target = field(default_factory=lambda: load_target("cpu"))
    opset: int = 20
    simplify: bool = True


def ship(net: nn.Module, example: torch.Tensor, shipped: Callable[[nn.Module], Heads], how: Shipping) -> None:
    """Do once what export, simplify and compile do, in f32, and compare with PyTorch.

    INT8 and half precision are left to the stages that make them. A graph that has passed is remembered in the user's cache, beside
    the latency table, with the versions that it passed in: comparisons, searches and changed schedules build the same one again.

    Args:
        example: (1, 3, h, w); only its size counts.
        shipped: gives the logits (raw heads) as its last output.

    Raises:
        ExportError: an operator is missing or computed otherwise; which, and where it stands.
    """
    height, width = (int(n) for n in example.shape[2:])
    image = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    whole = shipped(plain(copy.deepcopy(net).eval(), example)).eval()
    captured = _captured(whole, torch.from_numpy(image))
    device = device_of(how.target)
    here = isinstance(device, Local) and how.target.backend != "inductor" and device.why_not() is None
    key = captured and hash_obj(
        [
            captured.graph_module.code,
            [(n, list(t.shape)) for n, t in tensors_of(whole).items()],
            how.target.model_dump(mode="json"),
            [how.opset, how.simplify, height, width],
            [version(name) for name in _PACKAGES],
            [edgeprune.__version__, [device.version(), device.identity()] if here else None],
        ]
    )
    known = key and default_path().parent / "rehearsed" / key
    if known and known.exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        export(whole, (height, width), path, how.opset, captured)
        with torch.no_grad():
            answer = whole(torch.from_numpy(image))
        wanted = (answer[-1] if isinstance(answer, tuple) else answer).numpy()
        model = _logits_first(onnx.load(path))
        onnx.save(model, path)
        off = _differ(OnnxRuntimeEngine(path).outputs(image)[0], wanted)
        if not off <= _ALIKE:
            raise ExportError(
                f"export: the ONNX graph answers otherwise than the network in PyTorch (by {off:.0e} of the largest): forward takes "
                "something for a constant that is none, such as a random number or what a hook has kept"
            )
        if how.simplify:
            simplify(path, path, image)
        if here:
            _compile(device, path, model, image, wanted)
    if known:
        with suppress(EdgepruneError):  # a cache that cannot be written costs seconds
            write_atomic(known, b"")


def _captured(whole: nn.Module, image: torch.Tensor) -> torch.export.ExportedProgram | None:
    """As the exporter captures it first; None where it has to try otherwise, or to say why not."""
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(whole, (image,), strict=False)
    except Exception:  # its errors have no common class
        return None


def _compile(device: Device, path: Path, model: onnx.ModelProto, image: np.ndarray, wanted: np.ndarray) -> None:
    """Build an engine of the graph, and find the operator where it fails or answers otherwise."""
    home, backend = path.parent / "engine", device.version()
    try:
        off = _differ(device.build(path, home, "f32").predict(image), wanted)
        if off <= _ALIKE:
            return
        why = f"answers otherwise than PyTorch (by {off:.0e} of the largest)"
    except EngineError as error:
        why = f"does not take the graph ({first_line(error)[:200]})"

    def correct(part: onnx.ModelProto) -> bool:
        onnx.save(part, path)
        try:
            true = OnnxRuntimeEngine(path).outputs(image)[0]
        except Exception:  # a part that cannot be judged is not at fault
            return True
        try:
            return _differ(device.build(path, home, "f32").predict(image), true) <= _ALIKE
        except Exception:  # what no engine can be built of is not computed correctly
            return False

    node = culprit.first_wrong(model, correct)
    if node is None:
        raise ExportError(f"export: {backend} {why}; it would do so after training")
    raise ExportError(
        f"export: {backend} computes the operator {culprit.place(node)} wrongly or not at all; the engine {why}. Write it with other "
        "operators, or choose another target"
    )


def _logits_first(model: onnx.ModelProto) -> onnx.ModelProto:
    """Engines give a graph's first output."""
    outputs = list(model.graph.output)
    del model.graph.output[:]
    model.graph.output.extend(reversed(outputs))
    return model


def _differ(found: np.ndarray, wanted: np.ndarray) -> float:
    return apart(torch.tensor(found), torch.tensor(wanted))
