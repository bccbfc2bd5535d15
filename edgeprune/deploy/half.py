"""The cast of an ONNX graph to FP16, node by node.

ONNX Runtime's converter rounds to FP16 and back between two nodes that it keeps in FP32, so a value that FP16 cannot hold is lost all the
same, and its graph is not sorted; the cast is ours therefore.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeprune.errors import ExportError


def to_float16(model: onnx.ModelProto, keep: Iterable[str] = ()) -> onnx.ModelProto:
    """The graph with its float tensors in FP16, but for the nodes named in `keep`; casts stand only where the two meet.

    The graph's own inputs and outputs keep their types. What ONNX allows in FP32 only (the scales of Resize) stays so.

    Raises:
        ExportError: a node with a graph of its own (If, Loop), or a type that ONNX cannot infer.
    """
    model, keep = named(model), set(keep)
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    graph, floats = model.graph, floats_of(model)
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
    return checked(model)


def named(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every node has a name of its own."""
    copy, taken = onnx.ModelProto(), set()
    copy.CopyFrom(model)
    for i, node in enumerate(copy.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{i}"
        taken.add(node.name)
    return copy


def floats_of(model: onnx.ModelProto) -> set[str]:
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


def checked(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"precision: the cast graph is not valid: {str(error).strip().splitlines()[0]}") from error
    return model
