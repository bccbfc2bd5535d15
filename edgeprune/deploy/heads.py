"""Ways to write the last step, logits to classes, that give the same classes and unlike times on different devices.

Backends run `argmax` as TopK, which is slow on some (a third of a small network's time on a CPU in f32). `chain` keeps a
running maximum and its class, one comparison a class: fast where few classes meet a backend that fuses comparisons. Which
one ships is decided by timing them on the device, behind a convolution and the resize to full size as in the real graph.

`coarse` takes the classes where the logits are, at an eighth of the size or so, and enlarges the classes: a sixty-fourth of
the work, and edges in steps. It is tried only where its masks pass the gates, so seldom where pixel_agreement is strict.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import nn

from edgeprune.errors import ExportError


def argmax(logits: torch.Tensor) -> torch.Tensor:
    """(B, K, H, W) logits to (B, H, W) float32 class numbers; the lowest class wins a tie."""
    return logits.argmax(1).to(torch.float32)


def chain(logits: torch.Tensor) -> torch.Tensor:
    """The same by a running maximum; exact, ties included."""
    best, classes = logits[:, 0], torch.zeros_like(logits[:, 0], dtype=torch.float32)
    for k in range(1, logits.shape[1]):
        more = logits[:, k] > best
        best = torch.maximum(best, logits[:, k])
        classes = torch.where(more, torch.full_like(classes, k), classes)
    return classes


def coarsened(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its argmax in front of the last resize, which then enlarges classes (nearest) and not logits.

    Raises:
        ExportError: the logits are not resized right before the argmax, so there is nothing to save.
    """
    graph = model.graph
    made = {name: node for node in graph.node for name in node.output}
    arg = next((n for n in reversed(graph.node) if n.op_type == "ArgMax"), None)
    resize = made.get(arg.input[0]) if arg is not None else None
    if arg is None or resize is None or resize.op_type != "Resize":
        raise ExportError(
            "deploy.head: coarse saves nothing here: the network's logits are not resized before the argmax"
        )
    for a in arg.attribute:
        if a.name == "keepdims":
            a.i = 1
    shape = next((v for v in graph.output if v.name == "classes"), None)
    assert shape is not None
    _, height, width = (d.dim_value for d in shape.type.tensor_type.shape.dim)
    held, large = arg.output[0], resize.output[0]
    wanted = any(large in n.input for n in graph.node if n is not arg) or any(v.name == large for v in graph.output)
    arg.input[0], arg.output[0] = resize.input[0], f"{held}_coarse"
    weights = {"sizes": np.array([1, 1, height, width], np.int64), "squeezed": np.array([1], np.int64)}
    graph.initializer.extend(onnx.numpy_helper.from_array(w, f"{held}_{name}") for name, w in weights.items())
    make = onnx.helper.make_node
    added = [
        make("Cast", [f"{held}_coarse"], [f"{held}_float"], to=onnx.TensorProto.FLOAT, name=f"{arg.name}_float"),
        make("Resize", [f"{held}_float", "", "", f"{held}_sizes"], [f"{held}_wide"], mode="nearest", name=f"{arg.name}_enlarged",
             coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        make("Squeeze", [f"{held}_wide", f"{held}_squeezed"], [f"{held}_flat"], name=f"{arg.name}_squeezed"),
        make("Cast", [f"{held}_flat"], [held], to=onnx.TensorProto.INT64, name=f"{arg.name}_whole"),
    ]  # fmt: skip
    nodes = []
    for node in graph.node:
        nodes += [] if node is resize and not wanted else [node]
        nodes += added if node is arg else []
    kept = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    onnx.checker.check_model(model, full_check=True)
    return model


def strides(path: Path, size: tuple[int, int]) -> tuple[int, int]:
    """How many pixels of the image a class of a coarse graph stands for, down and across."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    arg = next(n for n in reversed(graph.node) if n.op_type == "ArgMax")
    dims = next(v for v in graph.value_info if v.name == arg.output[0]).type.tensor_type.shape.dim
    return max(1, size[0] // dims[2].dim_value), max(1, size[1] // dims[3].dim_value)


def fastest(names: Sequence[str], beats: Callable[[str, str], bool]) -> str:
    """The one that no other beats by a clear interval; earlier ones are kept in doubt.

    Args:
        beats: is the second faster than the first, beyond doubt?
    """
    best = names[0]
    for name in names[1:]:
        best = name if beats(best, name) else best
    return best


HEADS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "argmax": argmax,
    "chain": chain,
}  # behind the resize; exact
COARSE = "coarse"
MOST_CLASSES = 32  # a longer chain is never faster and makes the graph long


class Tail(nn.Module):
    """A stand-in for the end of a network: uint8 images, a convolution to (K, h, w) logits; the head comes behind it."""

    def __init__(self, classes: int, stride: tuple[int, int]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, classes, 3, stride=stride, padding=1)
        self.last = nn.Conv2d(classes, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(F.relu(self.stem(x)))
