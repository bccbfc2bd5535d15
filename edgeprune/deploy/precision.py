"""Precision written into the ONNX graph, for engines that take types as they find them (strongly typed TensorRT).

`to_float16` casts a graph; `mixed` decides by real images which nodes stay in FP32; `quantised` adds explicit Q/DQ pairs.
All take and give `onnx.ModelProto`. They come behind simplifying, never before it: onnxsim folds the Q/DQ of weights away.

Why these tools: ONNX Runtime's FP16 converter rounds to FP16 and back between two nodes that it keeps in FP32, so a value
that FP16 cannot hold is lost all the same, and its graph is not sorted; the cast is ours therefore. NNCF quantises ONNX
graphs with unsigned steps, some of them one a channel, and refuses to be told otherwise; TensorRT takes neither. ONNX
Runtime's quantiser gives what TensorRT wants: signed, symmetric, one step a tensor, one a channel for weights.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeprune.errors import ExportError
from edgeprune.runtime.onnxruntime import options

LARGEST = float(np.finfo(np.float16).max)
SMALLEST = float(np.finfo(np.float16).tiny)
LIMITS = (LARGEST / 2, 4096.0, 512.0, 64.0)  # tried in turn; the first one leaves room for what no image here showed
_INT8 = ["Conv", "ConvTranspose", "MatMul", "Gemm"]
_PASSING = {"Cast", "Transpose", "Mul", "Add", "Sub", "Div", "Reshape", "Identity"}


@dataclass(frozen=True)
class Mixed:
    """A graph in FP16 but for `kept` (names of nodes in FP32, those that prepare the input aside).

    `limit`: the greatest magnitude that FP16 nodes handle; `agreement`: share of the FP32 graph's answers that it gives, too.
    """

    model: onnx.ModelProto
    kept: list[str]
    limit: float
    agreement: float


def same_classes(a: np.ndarray, b: np.ndarray) -> float:
    """The share of two masks' pixels with the same class."""
    return float((a == b).mean())


def mixed(
    model: onnx.ModelProto,
    images: Iterable[np.ndarray],
    enough: float = 0.995,
    alike: Callable[[np.ndarray, np.ndarray], float] = same_classes,
) -> Mixed:
    """Cast to FP16, with as few nodes in FP32 as real images ask for.

    A node stays in FP32 if it handles a magnitude beyond a limit, which starts at half of FP16's range. Where that is not enough,
    the last convolution and all behind it stay as well, since a class decides by differences of logits that FP16 rounds
    away; and the limit falls until the answers agree. Where nothing is enough, the best is given.

    Args:
        images: (H, W, 3) uint8, real ones: noise has other magnitudes.
        enough: share of the FP32 graph's answers that must stay.
        alike: (answers, answers) -> that share, for one image; by default of masks.

    Raises:
        ExportError: no images, or a graph that cannot be cast.
    """
    model, batch = named(model), [image[None] for image in images]
    if not batch:
        raise ExportError("precision: FP16 wants calibration images; deploy.calibration_images")
    largest, reference = magnitudes(model, batch), _answers(model, batch)
    prepares, decides = preparing(model), deciding(model)
    best: Mixed | None = None
    tried: list[list[str]] = []
    for limit, last in ((LIMITS[0], set[str]()), *((limit, decides) for limit in LIMITS)):
        kept = sorted({name for name, value in largest.items() if not value <= limit} | last)
        if kept in tried:
            continue
        tried.append(kept)
        low = to_float16(model, {*kept, *prepares})
        same = float(np.mean([alike(a, b) for a, b in zip(reference, _answers(low, batch), strict=True)]))
        if best is None or same > best.agreement:
            best = Mixed(low, kept, limit, same)
        if same >= enough:
            break
    assert best is not None
    return best


def to_float16(model: onnx.ModelProto, keep: Iterable[str] = ()) -> onnx.ModelProto:
    """The graph with its float tensors in FP16, but for the nodes named in `keep`; casts stand only where the two meet.

    The graph's own inputs and outputs keep their types. What ONNX allows in FP32 only (the scales of Resize) stays so.

    Raises:
        ExportError: a node with a graph of its own (If, Loop), or a type that ONNX cannot infer.
    """
    model, keep = named(model), set(keep)
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    graph, floats = model.graph, _floats(model)
    ends = {v.name for v in (*graph.input, *graph.output)}
    weights = {w.name: w for w in graph.initializer}
    now = dict.fromkeys(floats, TensorProto.FLOAT)  # the type that each float tensor has by now
    nodes: list[onnx.NodeProto] = []
    made: dict[tuple[str, int], str] = {}

    def as_type(name: str, wanted: int) -> str:
        """The tensor's name in the wanted type; a weight is cast here, anything else by a node."""
        if name not in floats or now[name] == wanted:
            return name
        if (name, wanted) not in made:
            made[name, wanted] = new = f"{name}_as_{'f16' if wanted == TensorProto.FLOAT16 else 'f32'}"
            if name in weights:
                graph.initializer.append(numpy_helper.from_array(_half(weights[name]), new))
            else:
                nodes.append(helper.make_node("Cast", [name], [new], name=f"cast_{new}", to=wanted))
        return made[name, wanted]

    for node in graph.node:
        low = node.name not in keep
        takes, gives = _types(node, opset)
        for i, name in enumerate(node.input):
            node.input[i] = as_type(name, TensorProto.FLOAT16 if low and takes[i] else TensorProto.FLOAT)
        nodes.append(node)
        if not low:
            continue
        _attributes(node)
        for i, name in enumerate(node.output):
            if name in floats and gives[i]:
                now[name] = TensorProto.FLOAT16
                if name in ends:  # the graph's own output keeps its name and type
                    node.output[i] = f"{name}_f16"
                    nodes.append(helper.make_node("Cast", [node.output[i]], [name], name=f"cast_{name}", to=1))
                    now[name], made[name, TensorProto.FLOAT16] = TensorProto.FLOAT, node.output[i]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    used = {name for node in nodes for name in node.input} | ends
    left = [w for w in graph.initializer if w.name in used]
    del graph.initializer[:]
    graph.initializer.extend(left)
    return _checked(model)


def quantised(model: onnx.ModelProto, images: Iterable[np.ndarray]) -> onnx.ModelProto:
    """The graph with Q/DQ pairs at the inputs and weights of convolutions and matrix products; the rest stays in FP32.

    `mixed` takes it from there to FP16 between the INT8 layers.

    Args:
        images: (H, W, 3) uint8, real ones, for the steps (the greatest magnitude seen).

    Raises:
        ExportError: no images, or a graph that cannot be quantised.
    """
    from onnxruntime import quantization as ortq

    model, feeds = named(model), [{model.graph.input[0].name: image[None]} for image in images]
    if not feeds:
        raise ExportError("precision: INT8 wants calibration images; deploy.calibration_images")

    class Reader(ortq.CalibrationDataReader):
        left = iter(feeds)

        def get_next(self) -> Any:
            return next(self.left, None)

    switches = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it asks for what simplifying has done
    try:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
            onnx.save(model, source)
            ortq.quantize_static(
                source, target, Reader(), quant_format=ortq.QuantFormat.QDQ, per_channel=True,
                activation_type=ortq.QuantType.QInt8, weight_type=ortq.QuantType.QInt8, op_types_to_quantize=_INT8,
                calibrate_method=ortq.CalibrationMethod.MinMax, extra_options=switches,
            )  # fmt: skip
            return _checked(onnx.load(target))
    except Exception as error:  # its errors have no common class
        raise ExportError(f"precision: the graph cannot be quantised: {str(error).strip().splitlines()[0]}") from error
    finally:
        logging.disable(before)


def magnitudes(model: onnx.ModelProto, batch: list[np.ndarray]) -> dict[str, float]:
    """For each node the greatest magnitude among its float inputs, outputs and weights on (1, H, W, 3) images.

    Infinite for weights, and steps of Q/DQ pairs, that FP16 cannot hold.
    """
    floats, probe = _floats(model), onnx.ModelProto()
    probe.CopyFrom(model)
    weights = {w.name: numpy_helper.to_array(w) for w in model.graph.initializer if w.name in floats}
    seen = dict.fromkeys((n for node in model.graph.node for n in node.output if n in floats), 0.0)
    for name in seen:  # reduced inside the graph: all activations of a large network do not fit into memory
        probe.graph.node.extend(
            [
                helper.make_node("Abs", [name], [f"{name}_abs"]),
                helper.make_node("ReduceMax", [f"{name}_abs"], [f"{name}_most"], keepdims=0),
            ]
        )
    del probe.graph.output[:]
    probe.graph.output.extend(helper.make_tensor_value_info(f"{n}_most", TensorProto.FLOAT, []) for n in seen)
    run = _session(probe)
    for image in batch:
        for name, value in zip(seen, run.run(None, {run.get_inputs()[0].name: image}), strict=True):
            seen[name] = max(seen[name], float(value)) if np.isfinite(value) else float("inf")
    found = {}
    for node in model.graph.node:
        values = [seen[n] for n in (*node.input, *node.output) if n in seen]
        for name in (n for n in node.input if n in weights and weights[n].size):
            size = np.abs(weights[name])
            step = node.op_type in ("QuantizeLinear", "DequantizeLinear")
            values.append(float("inf") if step and size.min() < SMALLEST else float(size.max()))
        found[node.name] = max(values, default=0.0)
    return found


def preparing(model: onnx.ModelProto) -> set[str]:
    """Nodes between the image and the first one that computes: they are exact in FP32 and cost nothing there."""
    reached, found = {v.name for v in model.graph.input}, set()
    weights = {w.name for w in model.graph.initializer}
    for node in model.graph.node:
        held = [n for n in node.input if n and n not in weights]
        if held and node.op_type in _PASSING and all(n in reached for n in held):
            found.add(node.name)
            reached.update(node.output)
    return found


def deciding(model: onnx.ModelProto) -> set[str]:
    """The last convolutions (or matrix products) and the nodes behind them: logits, their resizing, the choice of a class."""
    before: set[str] = set()  # tensors from which a convolution is reached
    found = set()
    for node in reversed(model.graph.node):
        if not before.isdisjoint(node.output):
            before.update(node.input)
            continue
        found.add(node.name)
        if node.op_type in _INT8:
            before.update(node.input)
    return found


def named(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every node has a name of its own."""
    copy, taken = onnx.ModelProto(), set()
    copy.CopyFrom(model)
    for i, node in enumerate(copy.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{i}"
        taken.add(node.name)
    return copy


def _floats(model: onnx.ModelProto) -> set[str]:
    """Names of all float32 tensors, weights included."""
    for node in model.graph.node:
        if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
            raise ExportError(f"precision: {node.op_type} {node.name} holds a graph of its own, which is not cast")
    try:
        graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    except onnx.shape_inference.InferenceError as error:
        raise ExportError(f"precision: ONNX cannot infer the graph's types: {str(error).splitlines()[0]}") from error
    values = (*graph.input, *graph.value_info, *graph.output)
    known = {v.name: v.type.tensor_type.elem_type for v in values}
    for node in graph.node:
        for name in node.output:
            if name and not known.get(name):
                raise ExportError(f"precision: ONNX does not know the type that {node.op_type} {node.name} gives")
    known |= {w.name: w.data_type for w in graph.initializer}
    return {name for name, kind in known.items() if kind == TensorProto.FLOAT}


def _types(node: onnx.NodeProto, opset: int) -> tuple[list[bool], list[bool]]:
    """Which inputs and which outputs may be FP16, as ONNX defines the operator."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError as error:
        raise ExportError(f"precision: ONNX {opset} has no operator {node.domain}.{node.op_type}") from error
    allowed = {c.type_param_str: "tensor(float16)" in c.allowed_type_strs for c in schema.type_constraints}

    def may(formal: list[onnx.defs.OpSchema.FormalParameter], count: int) -> list[bool]:
        last = len(formal) - 1  # a variadic parameter is the last one
        return [allowed.get(formal[min(i, last)].type_str, False) for i in range(count)]

    return may(list(schema.inputs), len(node.input)), may(list(schema.outputs), len(node.output))


def _attributes(node: onnx.NodeProto) -> None:
    """FP16 in the attributes by which some operators choose their result's type."""
    for a in node.attribute:
        if node.op_type == "Cast" and a.name == "to" and a.i == TensorProto.FLOAT:
            a.i = TensorProto.FLOAT16
        elif a.type == onnx.AttributeProto.TENSOR and a.t.data_type == TensorProto.FLOAT:
            a.t.CopyFrom(numpy_helper.from_array(_half(a.t), a.t.name))


def _half(tensor: onnx.TensorProto) -> np.ndarray:
    with np.errstate(over="ignore"):  # what does not fit is for the caller to keep in FP32
        return numpy_helper.to_array(tensor).astype(np.float16)


def _checked(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"precision: the cast graph is not valid: {str(error).strip().splitlines()[0]}") from error
    return model


def _session(model: onnx.ModelProto) -> Any:
    import onnxruntime as ort

    return ort.InferenceSession(model.SerializeToString(), options(), providers=["CPUExecutionProvider"])


def _answers(model: onnx.ModelProto, batch: list[np.ndarray]) -> list[np.ndarray]:
    run = _session(model)
    name = run.get_inputs()[0].name
    return [np.asarray(run.run(None, {name: image})[0]) for image in batch]
