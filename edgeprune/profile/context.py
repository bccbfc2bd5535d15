"""What an engine of the whole network says about its convolutions: their signatures and their times in their place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edgeprune.profile.probes import Key
from edgeprune.runtime.engine import Layer
from edgeprune.runtime.signature import Signature


class Context(NamedTuple):
    """Milliseconds of one engine by place: each convolution (a list where a key stands often), and the other layers."""

    convolutions: dict[Key, list[float]]
    all_convolutions: float  # also those whose names the engine has changed
    between: float  # other layers between the first and the last convolution: their maps have prunable channels
    around: float  # before and after: input, resizing to full size, argmax


def convolutions(onnx_file: Path) -> dict[str, Key]:
    """The convolutions of an ONNX graph, by node name."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load(str(onnx_file))).graph
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in [*graph.value_info, *graph.input, *graph.output]
    }
    weights = {i.name: list(i.dims) for i in graph.initializer}
    found = {}
    for node in graph.node:
        if node.op_type not in ("Conv", "ConvTranspose") or node.input[1] not in weights:
            continue
        shape, weight = shapes.get(node.input[0], []), weights[node.input[1]]
        if len(shape) == 4 and len(weight) == 4 and all(shape):
            found[node.name] = _key(node, shape, weight)
    return found


def _key(node: Any, shape: list[int], weight: list[int]) -> Key:
    told: dict[str, Any] = {a.name: list(a.ints) or a.i for a in node.attribute}
    groups = told.get("group", 1)
    deconv = node.op_type == "ConvTranspose"
    depthwise = groups > 1 and weight[1] == 1
    stride, dilation, pads = told.get("strides", [1, 1]), told.get("dilations", [1, 1]), told.get("pads", [0, 0, 0, 0])
    signature = Signature(
        "deconv" if deconv else "conv", (weight[2], weight[3]), (stride[0], stride[1]), (pads[0], pads[1]),
        (dilation[0], dilation[1]), 0 if depthwise else groups, (shape[2], shape[3]), shape[0],
    )  # fmt: skip
    inputs, outputs = (weight[0], weight[1]) if deconv else (weight[1], weight[0])
    return Key(signature, 0 if depthwise else inputs, outputs)


def read(onnx_file: Path, layers: Sequence[Layer]) -> Context:
    """Sort an engine's layers by place."""
    keys, found = convolutions(onnx_file), {}
    places = [n for n, layer in enumerate(layers) if "conv" in layer.kind.lower() and layer.kind != "Convert"]
    if not places:
        return Context({}, 0.0, 0.0, sum(layer.ms for layer in layers))
    total, between, around = 0.0, 0.0, 0.0
    for number, layer in enumerate(layers):
        if number in set(places):
            total += layer.ms
            if layer.name in keys:
                found.setdefault(keys[layer.name], []).append(layer.ms)
        elif places[0] < number < places[-1]:
            between += layer.ms
        else:
            around += layer.ms
    return Context(found, total, between, around)
