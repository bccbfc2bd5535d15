"""From a walked trace to the `ChannelGraph`: ids that live and die together become groups, and what is counted gets its widths."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn
from torch.fx import Node

from edgeprune.prune.channels import ChannelGraph, Group, Member, Move, Operation, Width
from edgeprune.prune.takers import norms_behind, own_biases
from edgeprune.prune.values import argument, shape_of
from edgeprune.runtime.signature import Signature

if TYPE_CHECKING:
    from edgeprune.prune.groups import Trace


def _kind(net: nn.Module, tensor: str, axis: int) -> str | None:
    module, _, leaf = tensor.rpartition(".")
    owner = net.get_submodule(module)
    if leaf != "weight":
        return None
    if isinstance(owner, nn.modules.batchnorm._NormBase):
        return "norm"
    if isinstance(owner, (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        return "out" if axis == out_axis(net, module) else "in"
    return None


def assemble(trace: Trace, net: nn.Module) -> ChannelGraph:
    keys = list(trace.axes)
    kinds = [_kind(net, *key) for key in keys]
    roots = {key: trace.union.roots(ids) for key, ids in trace.axes.items()}
    homes: dict[int, list[tuple[int, int]]] = {}  # root -> (axis number, how often it stands there), in order
    for number, key in enumerate(keys):
        for root, times in zip(*(a.tolist() for a in np.unique(roots[key], return_counts=True)), strict=True):
            homes.setdefault(root, []).append((number, times))
    families: dict[tuple[tuple[int, int], ...], list[int]] = {}
    why: dict[str, str] = {}
    for root, places in homes.items():
        producers = [keys[n][0].rpartition(".")[0] for n, _ in places if kinds[n] == "out"]
        if root in trace.union.reason:
            for module in producers:
                if trace.union.reason[root]:
                    why.setdefault(module, trace.union.reason[root])
        elif producers:
            families.setdefault(tuple(places), []).append(root)

    groups: list[Group] = []
    owner: dict[int, tuple[int, int]] = {}  # root -> (group, unit)
    taken: Counter[str] = Counter()
    for places, units in sorted(families.items()):
        units = sorted(units)
        members = []
        for number, _ in places:
            kind = kinds[number]
            if kind is not None:
                module = keys[number][0].rpartition(".")[0]
                behind = trace.series.get(module, "") if kind == "norm" else ""
                members.append(Member(module, kind, _index(roots[keys[number]], units), behind))
        name = next(m.module for m in members if m.kind == "out")
        taken[name] += 1
        if taken[name] > 1:
            name = f"{name}#{taken[name]}"
        owner.update({root: (len(groups), i) for i, root in enumerate(units)})
        groups.append(Group(name, len(units), members))

    places_of: dict[str, dict[int, tuple[np.ndarray, np.ndarray]]] = {}
    for (tensor, axis), ids in roots.items():
        pairs = [owner.get(r, (-1, -1)) for r in ids.tolist()]
        if any(g >= 0 for g, _ in pairs):
            table = np.array(pairs, dtype=np.int64).reshape(-1, 2)
            places_of.setdefault(tensor, {})[axis] = (table[:, 1], table[:, 0])

    def width(ids: np.ndarray) -> Width:
        numbers = Counter(owner.get(r, (-1, -1))[0] for r in trace.union.roots(ids).tolist())
        fixed = numbers.pop(-1, 0)
        return Width(fixed, {groups[g].name: n // groups[g].size for g, n in sorted(numbers.items())})

    operations = [
        Operation(
            node.name, kind, scale, width(out), None if inp is None else width(inp), _signature(node, kind),
            _module(trace, node),
        )
        for node, kind, scale, out, inp in trace.counted
    ]  # fmt: skip
    moves = [
        Move(name, math.prod(_result_shape(node)) // max(1, value.ids.size), width(value.ids.ravel()))
        for node, name, value in trace.moved
    ]
    tensors: dict[str, list[Width | int]] = {}
    named = dict(net.named_parameters(remove_duplicate=False))
    shipped = {id(named[name]) for name in trace.shipped if name in named}
    for name, p in net.named_parameters():
        if id(p) not in shipped:
            continue
        shape: list[Width | int] = []
        for axis, size in enumerate(p.shape):
            found = trace.axes.get((name, axis))
            shape.append(int(size) if found is None else width(found))
        tensors[name] = shape
    behind, biased = norms_behind(net, trace.parameters), own_biases(net, trace.parameters)
    return ChannelGraph(groups, places_of, operations, tensors, moves, why, behind, biased)


def _result_shape(node: Any) -> tuple[int, ...]:
    """The shape of a call's (first) result."""
    value = node.meta["val"]
    return tuple(int(n) for n in (value[0] if isinstance(value, (tuple, list)) else value).shape)


def _signature(node: Any, kind: str) -> Signature | None:
    """The geometry of a two-dimensional convolution; None for anything else."""
    if kind not in ("conv", "deconv") or len(shape_of(node)) != 4:
        return None
    weight = shape_of(node.args[1])
    place = {"conv": (3, 4, 5, 6), "deconv": (3, 4, 7, 6)}[kind]
    stride, padding, dilation = (
        argument(node, p, name, default)
        for p, name, default in zip(place, ("stride", "padding", "dilation"), (1, 0, 1), strict=False)
    )
    stride, dilation = _pair(stride), _pair(dilation)
    named = {"same": [d * (k - 1) // 2 for d, k in zip(dilation, weight[2:], strict=True)], "valid": 0}
    padding = _pair(named.get(padding, 0) if isinstance(padding, str) else padding)
    groups = int(argument(node, place[3], "groups", 1))
    depthwise = groups > 1 and weight[1] == 1
    batch, _, *size = shape_of(node.args[0])
    return Signature(
        kind, (weight[2], weight[3]), stride, padding, dilation, 0 if depthwise else groups, (size[0], size[1]), batch
    )


def _module(trace: Trace, node: Any) -> str:
    """The module whose weight a call takes."""
    weight = node.args[1] if len(node.args) > 1 else None
    return trace.parameters.get(weight, "").rpartition(".")[0] if isinstance(weight, Node) else ""


def _pair(value: Any) -> tuple[int, int]:
    pair = list(value) if isinstance(value, (list, tuple)) else [value]
    return int(pair[0]), int(pair[-1])


def _index(roots: np.ndarray, units: list[int]) -> np.ndarray:
    """Positions of every unit in an axis: (units,) or (units, m)."""
    order = np.argsort(roots, kind="stable")
    ordered = roots[order]
    first, last = np.searchsorted(ordered, units, "left"), np.searchsorted(ordered, units, "right")
    table = np.array([order[a:b] for a, b in zip(first, last, strict=True)], dtype=np.int64)
    return table[:, 0] if table.shape[1] == 1 else table


def out_axis(net: nn.Module, module: str) -> int:
    return 1 if isinstance(net.get_submodule(module), nn.ConvTranspose2d) else 0
