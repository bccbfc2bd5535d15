"""Handlers of the operators that move channels about: join, cut, reshape, permute, shuffle, pad."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from edgeprune.prune.values import Call, Value, argument, shape_of

if TYPE_CHECKING:
    from edgeprune.prune.groups import Trace


def cat(trace: Trace, node: Call) -> Value:
    parts = [trace.value(t) for t in node.args[0]]
    axis = int(argument(node, 1, "dim", 0)) % len(shape_of(node))
    if axis == parts[0].axis and all(p.ids.ndim == 1 and p.axis == axis for p in parts):
        return Value(np.concatenate([p.ids for p in parts]), axis)
    if all(p.axis == parts[0].axis and p.ids.shape == parts[0].ids.shape for p in parts):
        for p in parts[1:]:
            trace.union.union(p.ids, parts[0].ids)
        return parts[0]
    for p in parts:
        trace.union.fix(p.ids, "concatenated across axes")
    return trace.fresh(node, "concatenated across axes")


def slice_(trace: Trace, node: Call) -> Value:
    """A slice of the channels has its bounds written in the code, so the sliced tensor must keep its width."""
    x, shape = trace.value(node.args[0]), shape_of(node.args[0])
    axis = int(argument(node, 1, "dim", 0)) % len(shape)
    if not x.axis <= axis < x.axis + x.ids.ndim or shape_of(node) == shape:
        return x
    trace.union.fix(x.ids, "sliced at a fixed channel")
    start, end, step = argument(node, 2, "start") or 0, argument(node, 3, "end"), argument(node, 4, "step", 1)
    return Value(x.ids.take(range(*slice(start, end, step).indices(shape[axis])), axis - x.axis), x.axis)


def chunk(trace: Trace, node: Call) -> tuple[Value | None, ...]:
    """`chunk` divides what is there: position j of every chunk stands or falls together."""
    x, shape = trace.value(node.args[0]), shape_of(node.args[0])
    count, axis = int(node.args[1]), int(argument(node, 2, "dim", 0)) % len(shape)
    if axis != x.axis or x.ids.ndim != 1:
        if x.axis <= axis < x.axis + x.ids.ndim:
            trace.union.fix(x.ids, "chunked across axes")
        return tuple(x for _ in node.meta["val"])
    if shape[axis] % count:
        trace.union.fix(x.ids, "chunked unevenly")
        return tuple(Value(p, axis) for p in np.array_split(x.ids, len(node.meta["val"])))
    table = x.ids.reshape(count, -1)
    trace.union.union(table, table[:1])
    return tuple(Value(row, axis) for row in table)


def split(trace: Trace, node: Call) -> tuple[Value | None, ...]:
    """`split` has its sizes written in the code: the tensor must keep its width."""
    x, shape = trace.value(node.args[0]), shape_of(node.args[0])
    axis = int(argument(node, 2, "dim", 0)) % len(shape)
    if not x.axis <= axis < x.axis + x.ids.ndim:
        return tuple(x for _ in node.meta["val"])
    trace.union.fix(x.ids, "split at fixed channels")
    bounds = np.cumsum([v.shape[axis] for v in node.meta["val"]])[:-1]
    return tuple(Value(p, x.axis) for p in np.split(x.ids, bounds, axis - x.axis))


def view(trace: Trace, node: Call) -> Value:
    """reshape, view, flatten: the channel axis may be divided, merged again, or merged with the space behind it."""
    x, before, after = trace.value(node.args[0]), shape_of(node.args[0]), shape_of(node)
    if before == after:
        return x
    channels = math.prod(before[x.axis : x.axis + x.ids.ndim])
    lead = math.prod(before[: x.axis])
    free = node.args[0] in trace.free
    rest = math.prod(before[x.axis + x.ids.ndim :])
    starts = [a for a in range(len(after)) if math.prod(after[:a]) == lead and (a or free)]  # else axis 0 is the batch
    for axis in starts[::-1] if free else starts[:1]:
        for end in range(axis + 1, len(after) + 1):
            size = math.prod(after[axis:end])
            if size == channels and math.prod(after[end:]) == rest:
                ids = x.ids.reshape(after[axis:end])
                for dim in range(ids.ndim - 1):  # sizes but the last are written in the code: rows stay alike
                    trace.union.union(ids, ids.take([0], dim))
                return Value(ids, axis)
            if size == channels * rest and end == len(after) and end == axis + 1:
                return Value(np.repeat(x.ids.ravel(), rest), axis)
    trace.union.fix(x.ids, "reshaped across channels")
    return trace.fresh(node, "reshaped across channels")


def permute(trace: Trace, node: Call) -> Value:
    x, rank = trace.value(node.args[0]), len(shape_of(node))
    if node.target is torch.ops.aten.permute.default:
        order = [int(d) % rank for d in node.args[1]]
    else:
        order = list(range(rank))
        a, b = int(node.args[1]) % rank, int(node.args[2]) % rank
        order[a], order[b] = order[b], order[a]
    span = range(x.axis, x.axis + x.ids.ndim)
    places = [order.index(d) for d in span]
    if sorted(places) != list(range(min(places), min(places) + len(places))):
        trace.union.fix(x.ids, "channel axes drawn apart, as attention heads are")
        return trace.fresh(node, "channel axes drawn apart, as attention heads are")
    inner = [d - x.axis for d in order if d in span]
    return Value(x.ids.transpose(inner), min(places))


def pixel_shuffle(trace: Trace, node: Call) -> Value:
    """(C r², H, W) to (C, rH, rW): the r² channels behind an output channel go together."""
    x, factor = trace.value(node.args[0]), int(node.args[1]) ** 2
    table = trace.flat(x, "shuffled over another axis").reshape(-1, factor)
    trace.union.union(table, table[:, :1])
    return Value(table[:, 0])


def pixel_unshuffle(trace: Trace, node: Call) -> Value:
    return Value(np.repeat(trace.value(node.args[0]).ids, int(node.args[1]) ** 2))


def pad(trace: Trace, node: Call) -> Value:
    """Spatial padding keeps the channels; zeros put beside the channels are channels that stay."""
    x, shape, after = trace.value(node.args[0]), shape_of(node.args[0]), shape_of(node)
    if shape[x.axis] == after[x.axis]:
        return x
    amounts = list(node.args[1])
    pair = len(shape) - 1 - x.axis
    low, high = amounts[2 * pair : 2 * pair + 2]
    if low < 0 or high < 0:
        trace.union.fix(x.ids, "cut at a fixed channel")
        return trace.fresh(node, "cut at a fixed channel")
    extra = [trace.union.new(int(n)) for n in (low, high)]
    for e in extra:
        trace.union.fix(e, "zero channels")
    return Value(np.concatenate([extra[0], x.ids, extra[1]]), x.axis)


def squeeze(trace: Trace, node: Call) -> Value:
    """Axes of length 1 vanish: behind the channels, or in front of a parameter's (in front of a map's stands the batch)."""
    x, before = trace.value(node.args[0]), shape_of(node.args[0])
    dims = argument(node, 1, "dim", range(len(before)))
    gone = {int(d) % len(before) for d in ([dims] if isinstance(dims, int) else dims)}
    gone = {d for d in gone if before[d] == 1}
    in_front = sum(d < x.axis for d in gone)
    if not any(x.axis <= d < x.axis + x.ids.ndim for d in gone) and (not in_front or node.args[0] in trace.free):
        return Value(x.ids, x.axis - in_front)
    trace.union.fix(x.ids, "squeezed before the channels")
    return trace.fresh(node, "squeezed before the channels")


def unsqueeze(trace: Trace, node: Call) -> Value:
    x, dim = trace.value(node.args[0]), int(node.args[1]) % len(shape_of(node))
    if dim <= x.axis or dim >= x.axis + x.ids.ndim:
        return Value(x.ids, x.axis + (dim <= x.axis))
    trace.union.fix(x.ids, "divided by a new axis")
    return trace.fresh(node, "divided by a new axis")
