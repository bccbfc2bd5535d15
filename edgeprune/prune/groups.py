"""Channel groups of a network, found by walking the ATen graph that `torch.export` captures.

Every parameter's every axis gets one id a channel; the operators (see `operators.py`) tie ids that must live or die
together. What an unknown operator touches is kept. What comes out is a `ChannelGraph` of groups, places and costs.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.fx import Node
from torch.utils._pytree import tree_unflatten

from edgeprune.errors import SurgeryError, first_line
from edgeprune.models import logits_of
from edgeprune.models.modes import evaluating
from edgeprune.progress import doing
from edgeprune.prune.assemble import assemble, out_axis
from edgeprune.prune.channels import ChannelGraph, Group, Member, UnionFind
from edgeprune.prune.inline import open_regions
from edgeprune.prune.operators import HANDLERS, MOVING
from edgeprune.prune.values import Value, shape_of

__all__ = ["ChannelGraph", "Group", "Member", "find_groups"]


class Trace:
    """The walk's state: the ids of every value and of every parameter axis."""

    def __init__(self, parameters: dict[Node, str], net: nn.Module, tied: frozenset[str] = frozenset()) -> None:
        self.net, self.tied = net, tied
        self.union = UnionFind()
        self.parameters = parameters
        self.free: set[Any] = set(parameters)  # what hangs on no input of the network: it has no batch
        self.values: dict[Any, Any] = {}
        self.axes: dict[tuple[str, int], np.ndarray] = {}
        self.counted: list[tuple[Node, str, int, np.ndarray, np.ndarray | None]] = []
        self.moved: list[tuple[Node, str, Value]] = []
        self.series: dict[str, str] = {}  # norm -> the norm that it follows in series
        self.shipped: set[str] = set()  # parameters and buffers that the main output hangs on

    def axis(self, tensor: Any, axis: int) -> np.ndarray:
        """The ids of one axis of a parameter or buffer (a computed weight has fixed ones)."""
        if tensor not in self.parameters:
            if isinstance(made := self.values.get(tensor), Value):
                self.union.fix(made.ids, "a weight that is computed")
            ids = self.union.new(shape_of(tensor)[axis])
            self.union.fix(ids, "a weight that is computed")
            return ids
        key = (self.parameters[tensor], axis)
        if key not in self.axes:
            self.axes[key] = self.union.new(shape_of(tensor)[axis])
        return self.axes[key]

    def owner(self, tensor: Any) -> nn.Module | None:
        """The module that a parameter or buffer belongs to."""
        name = self.parameters.get(tensor)
        return None if name is None else self.net.get_submodule(name.rpartition(".")[0])

    def value(self, node: Any, axis: int = 1) -> Value:
        found = self.values.get(node)
        if isinstance(found, Value):
            return found
        if node in self.parameters:
            return self._parameter(node, axis)
        if node.op == "placeholder":
            return self.fresh(node, "the network's input", axis)
        made = not node.all_input_nodes  # zeros beside a narrower map
        return self.fresh(node, "a tensor that the forward makes" if made else "not followed", axis)

    def _parameter(self, node: Node, axis: int) -> Value:
        """A free parameter that is computed with: the one axis that it has, or the channels of a map (1, C, H, W)."""
        shape = shape_of(node)
        wide = [a for a, size in enumerate(shape) if size > 1]
        if len(wide) == 1 or (len(shape) == 4 and wide[:1] == [1]):
            return Value(self.axis(node, wide[0]), wide[0])
        for a in wide:
            self.union.fix(self.axis(node, a), "a parameter that is reshaped")
        return self.fresh(node, "a parameter that is reshaped", axis)

    def fresh(self, node: Node, reason: str, axis: int = 1) -> Value:
        shape = shape_of(node)
        axis = min(axis, len(shape) - 1)
        ids = self.union.new(shape[axis] if shape else 1)
        self.union.fix(ids, reason)
        return Value(ids, axis)

    def flat(self, x: Value, reason: str) -> np.ndarray:
        """Ids of a value whose channels are the whole of axis 1; anything else is fixed."""
        if x.axis != 1 or x.ids.ndim != 1:
            self.union.fix(x.ids, reason)
        return x.ids.ravel()

    def note_norm(self, node: Node) -> None:
        """Remember which norm a batch norm follows in series; none where it is called several times behind others."""
        scale = node.args[1] if "batch_norm" in str(node.target) else None
        if not isinstance(scale, Node) or scale not in self.parameters:
            return
        norm, source = self.parameters[scale].rpartition(".")[0], node.args[0]
        before = self._norm_before(source) if isinstance(source, Node) and len(source.users) == 1 else ""
        if self.series.setdefault(norm, before) != before:
            self.series[norm] = ""

    def _norm_before(self, node: Node) -> str:
        """The norm whose maps reach a depthwise convolution and nothing else; "" where there is none."""
        while True:
            sources = [n for n in node.all_input_nodes if n not in self.parameters]
            weight = node.args[1] if len(node.args) > 1 else None
            known = isinstance(weight, Node) and weight in self.parameters
            if (
                (known and len(shape_of(weight)) > 1 and shape_of(weight)[1] > 1)
                or len(sources) != 1
                or len(sources[0].users) != 1
            ):
                return ""
            node = sources[0]
            if "batch_norm" in str(node.target):
                scale = node.args[1]
                return self.parameters.get(scale, "").rpartition(".")[0] if isinstance(scale, Node) else ""

    def count(self, node: Node, kind: str, scale: int, outputs: np.ndarray, inputs: np.ndarray | None = None) -> None:
        self.counted.append((node, kind, scale, outputs.ravel(), inputs))


@doing("following the network's channels")
def find_groups(
    net: nn.Module,
    example: torch.Tensor | Sequence[torch.Tensor],
    never: Sequence[str] = (),
    tied: frozenset[str] = frozenset(),
) -> ChannelGraph:
    """Find the channel groups of `net`.

    Args:
        net: any network that `torch.export` captures; its mode and its weights are left as they were.
        example: input(s), (B, 3, H, W).
        never: glob patterns of module names whose output channels stay.
        tied: convolutions that are not depthwise, though each of their groups has one channel left (`grouped` of the dense network).

    Raises:
        SurgeryError: the network cannot be captured.
    """
    inputs = (example,) if isinstance(example, torch.Tensor) else tuple(example)
    try:
        with evaluating(net):
            program = torch.export.export(net, inputs, strict=False)
    except Exception as error:
        raise SurgeryError(
            f"network {type(net).__name__}: torch.export cannot capture it ({first_line(error)[:200]}); "
            "its forward must not branch on tensor values"
        ) from error
    signature = program.graph_signature
    names = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    open_regions(program.graph_module)
    first = {id(p): name for name, p in net.named_parameters()}  # of the names of a tensor that several modules hold
    names = {node: first.get(id(_tensor(net, name)), name) for node, name in names.items()}
    nodes = list(program.graph.nodes)
    trace = Trace({n: names[n.name] for n in nodes if n.op == "placeholder" and n.name in names}, net, tied)
    for node in nodes:
        if node.op == "call_function":
            if trace.free.issuperset(node.all_input_nodes):
                trace.free.add(node)
            trace.values[node] = _step(trace, node)
            trace.note_norm(node)
        elif node.op == "output":
            for result in node.all_input_nodes:
                if isinstance(trace.values.get(result), Value):
                    trace.union.fix(trace.values[result].ids, "an output of the network")
    shipped = _ancestors(_main_output(program))
    trace.counted = [c for c in trace.counted if c[0] in shipped]
    trace.moved = [m for m in trace.moved if m[0] in shipped]
    constants = set(signature.inputs_to_lifted_tensor_constants.values())
    for (tensor, _), ids in trace.axes.items():
        if tensor in constants:
            trace.union.fix(ids, "a tensor that is neither parameter nor buffer (register_buffer makes it one)")
    _keep_others(trace, shipped)
    _keep_named(trace, net, never)
    return assemble(trace, net)


def _tensor(net: nn.Module, name: str) -> Any:
    path, _, leaf = name.rpartition(".")
    return getattr(net.get_submodule(path), leaf, None)


def grouped(net: nn.Module) -> frozenset[str]:
    """Convolutions with several channels in each of several groups."""
    kinds = (nn.Conv1d, nn.Conv2d)
    return frozenset(n for n, m in net.named_modules() if isinstance(m, kinds) and 1 < m.groups < m.in_channels)


def _main_output(program: torch.export.ExportedProgram) -> Node:
    """The output that ships (`models.outputs`)."""
    spec: Any = program.call_spec.out_spec
    results = list(next(n for n in program.graph.nodes if n.op == "output").args[0])[-spec.num_leaves :]
    values = [r.meta["val"] if isinstance(r, Node) else r for r in results]
    main = logits_of(tree_unflatten(values, spec))
    return next(r for r, value in zip(results, values, strict=True) if value is main)


def _keep_others(trace: Trace, shipped: set[Node]) -> None:
    """Leave whole what only another output reads, an auxiliary head: to cut it would save nothing that ships."""
    trace.shipped = {name for node, name in trace.parameters.items() if node in shipped}
    read = [trace.union.roots(ids) for (tensor, _), ids in trace.axes.items() if tensor in trace.shipped]
    needed = np.unique(np.concatenate(read)) if read else np.empty(0, np.int64)
    for (tensor, _), ids in trace.axes.items():
        if tensor not in trace.shipped:
            roots = np.unique(trace.union.roots(ids))
            trace.union.fix(roots[~np.isin(roots, needed)], "only an output that does not ship reads it")


def _ancestors(node: Node) -> set[Node]:
    found, todo = {node}, [node]
    while todo:
        for source in todo.pop().all_input_nodes:
            if source not in found:
                found.add(source)
                todo.append(source)
    return found


def _step(trace: Trace, node: Node) -> Any:
    target = node.target
    name = f"aten.{target.overloadpacket.__name__}" if isinstance(target, torch._ops.OpOverload) else str(target)
    handler, reason = HANDLERS.get(name), f"operator {name} is not known"
    if handler is not None:
        try:
            result = handler(trace, node)
        except (AttributeError, IndexError, TypeError, ValueError):  # such as a number where a tensor is usual
            reason = f"operator {name} is not known in this form"
        else:
            value = result[0] if isinstance(result, tuple) and result else result
            if name in MOVING and isinstance(value, Value):
                trace.moved.append((node, name, value))
            return result
    for source in node.all_input_nodes:
        found = trace.values.get(source)
        for v in found if isinstance(found, tuple) else (found,):
            if isinstance(v, Value):
                trace.union.fix(v.ids, reason)
        if source in trace.parameters:
            for axis in range(len(shape_of(source))):
                trace.union.fix(trace.axis(source, axis), reason)
    return None


def _keep_named(trace: Trace, net: nn.Module, never: Sequence[str]) -> None:
    frozen = {name for name, p in net.named_parameters(remove_duplicate=False) if not p.requires_grad}
    for (tensor, axis), ids in trace.axes.items():
        module = tensor.rpartition(".")[0]
        if tensor in frozen:
            trace.union.fix(ids, "frozen")
        elif axis == out_axis(net, module) and any(matches(module, p) for p in never):
            trace.union.fix(ids, "named in prune.never")


def matches(module: str, pattern: str) -> bool:
    """Does a pattern of `prune.never` name the module, or a container that holds it?"""
    return fnmatch.fnmatch(module, pattern) or fnmatch.fnmatch(module, f"{pattern}.*")
