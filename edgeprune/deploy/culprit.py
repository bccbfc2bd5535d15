"""Which operator of a network an exporter or a runtime stumbles over, and where it stands in the user's code."""

from __future__ import annotations

import ast
import contextlib
import re
import sysconfig
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import onnx
import torch
from torch import nn

from edgeprune.errors import first_line

_LIBRARIES = (sysconfig.get_paths()["purelib"], sysconfig.get_paths()["stdlib"], str(Path(__file__).parents[1]))
_NAMED = re.compile(r"op='([\w.]+)'|target=torch\.ops\.([\w.]+)")  # as PyTorch's exporter writes operators
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_STACK, _SCOPES, _NODE = "pkg.torch.onnx.stack_trace", "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.fx_node"


def of_export(error: Exception, net: nn.Module, image: torch.Tensor) -> str:
    """One line for why `net` was not exported: the operator's name and place where one is the reason, else PyTorch's own cause."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    named = (_NAMED.search(str(e)) for e in reversed(chain))
    operator = next((_short(m[1] or m[2]) for m in named if m), None)
    if operator is None:
        return f"{first_line(chain[-1])[:200] or type(chain[-1]).__name__}{_in_code(_frames(chain[-1]))}"
    why = first_line(chain[-1])[:200]
    lacks = "No ONNX function found" in why
    return (
        f"it has no ONNX for the operator {operator}" if lacks else f"it fails at the operator {operator} ({why})"
    ) + _captured(net, image, operator)


def place(node: onnx.NodeProto) -> str:
    """ "aten.x in module a.b (file.py, line 3)" of a node of an exported graph; its own type and name where nothing is known."""
    known = {p.key: p.value for p in node.metadata_props}
    made = _NAMED.search(known.get(_NODE, ""))
    operator = _short(made[1] or made[2]) if made else f"{node.op_type} {node.name}"
    scopes = [s.removeprefix("net").removeprefix(".") for s in _listed(known.get(_SCOPES, ""))[:-1]]
    return operator + _whose(scopes) + _in_code([(f, int(n)) for f, n in _FRAME.findall(known.get(_STACK, ""))])


def first_wrong(model: onnx.ModelProto, correct: Callable[[onnx.ModelProto], bool]) -> onnx.NodeProto | None:
    """The first node on the way to the graph's first output whose value is computed wrongly; None where no single one can be blamed.

    Found by halves, then back along what it reads, since of two branches the other may be at fault.

    Args:
        correct: whether a part of the graph, which ends at a node's first output, is computed correctly.
    """
    graph = model.graph
    made = {
        name: i for i, node in enumerate(graph.node) for name in node.output if name
    }  # "": an output that is not asked for
    told = onnx.shape_inference.infer_shapes(model).graph
    floats = {
        v.name for v in (*told.value_info, *told.output) if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    needed, _ = _needed(graph, graph.output[0].name)
    able = [i for i in needed if graph.node[i].output[0] in floats]
    known: dict[int, bool] = {}

    def wrong(i: int) -> bool:
        if i not in known:
            known[i] = not correct(_until(model, graph.node[i].output[0]))
        return known[i]

    low, high = 0, len(able) - 1
    if high < 0 or not wrong(able[high]):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if wrong(able[middle]) else (middle + 1, high)
    at = able[low]
    while (
        before := next((p for n in graph.node[at].input if (p := made.get(n)) in able and p < at and wrong(p)), None)
    ) is not None:
        at = before
    return graph.node[at]


def _until(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The graph up to one value, its only output."""
    part = onnx.ModelProto.FromString(model.SerializeToString())
    needed, wanted = _needed(part.graph, name)
    for i in sorted(set(range(len(part.graph.node))) - set(needed), reverse=True):
        del part.graph.node[i]
    del part.graph.output[:]
    part.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    for unused in [i for i in part.graph.initializer if i.name not in wanted]:
        part.graph.initializer.remove(unused)
    return part


def _needed(graph: onnx.GraphProto, name: str) -> tuple[list[int], set[str]]:
    """The nodes that a value hangs on, in order, and the names of all that they read."""
    wanted, found = {name}, []
    for i in reversed(range(len(graph.node))):
        if wanted & set(graph.node[i].output):
            wanted |= set(graph.node[i].input) - {""}  # an input that is left out
            found.append(i)
    return found[::-1], wanted


def _captured(net: nn.Module, image: torch.Tensor, operator: str) -> str:
    """Where the operator stands, from a capture of its own: the exporter's error does not say."""
    with contextlib.suppress(Exception), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(net, (image,), strict=False)
        for nodes in (program.graph.nodes, program.run_decompositions().graph.nodes):
            for node in nodes:
                if _short(str(node.target)) == operator:
                    scopes = [s.removeprefix("net").removeprefix(".") for s, _ in node.meta["nn_module_stack"].values()]
                    found = _FRAME.findall(node.meta.get("stack_trace") or "")
                    return _whose(scopes) + _in_code([(f, int(n)) for f, n in found])
    return ""


def _short(operator: str) -> str:
    """aten.max_pool2d of aten.max_pool2d.default."""
    return ".".join(operator.split(".")[:2])


def _listed(text: str) -> list[str]:
    try:
        return list(ast.literal_eval(text))
    except (SyntaxError, ValueError):
        return []


def _whose(scopes: list[str]) -> str:
    inner = [s for s in scopes if s]
    return f" in module {inner[-1]}" if inner else ""


def _frames(error: BaseException) -> list[tuple[str, int]]:
    return [(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)]


def _in_code(frames: list[tuple[str, int]]) -> str:
    """The innermost of the frames that are neither a library's nor ours."""
    own = [(f, n) for f, n in frames if not f.startswith(("<", *_LIBRARIES))]
    return f" ({Path(own[-1][0]).name}, line {own[-1][1]})" if own else ""
