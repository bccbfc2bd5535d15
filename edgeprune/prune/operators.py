"""How each ATen operator carries channels: one small handler an operator, all of them in `HANDLERS`.

The list is closed. An operator that is not on it makes the channels that reach it unprunable; nothing is guessed.
A handler gets the trace and the node and returns the `Value` of its result (or None: no channels are followed).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.fx import Node

if TYPE_CHECKING:
    from edgeprune.prune.groups import Trace

aten = torch.ops.aten


@dataclass(frozen=True)
class Value:
    """The channels of a tensor: ids for the axes `axis … axis + ids.ndim - 1`."""

    ids: np.ndarray
    axis: int = 1


Call = Any  # a torch.fx.Node; the union type of its arguments is nothing that a checker can follow
Handler = Callable[["Trace", Call], Value | tuple[Value | None, ...] | None]


def shape_of(node: Call) -> tuple[int, ...]:
    return tuple(int(s) for s in node.meta["val"].shape)


def argument(node: Call, position: int, name: str, default: Any = None) -> Any:
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, default)


def same(trace: Trace, node: Call) -> Value:
    """The result has the channels of the first argument."""
    return trace.value(node.args[0])


def conv(trace: Trace, node: Call) -> Value:
    """(Grouped, depthwise) convolution; in grouped ones position j of every group stands or falls together."""
    x, weight, bias = trace.value(node.args[0]), node.args[1], argument(node, 2, "bias")
    groups = int(argument(node, 6, "groups", 1))
    ids = _weighted(trace, x, weight, bias, groups, out_axis=0, in_axis=1)
    kernel = math.prod(shape_of(weight)[2:])
    pixels = math.prod(shape_of(node)[2:])
    inputs = None if shape_of(weight)[1] == 1 else trace.axis(weight, 1)
    trace.count(node, "conv", kernel * pixels * shape_of(node)[0], outputs=ids, inputs=inputs)
    return Value(ids)


def deconv(trace: Trace, node: Call) -> Value:
    """Transposed convolution: the weight is (in, out / groups, kh, kw)."""
    x, weight, bias = trace.value(node.args[0]), node.args[1], argument(node, 2, "bias")
    groups = int(argument(node, 6, "groups", 1))
    if groups > 1:
        trace.union.fix(x.ids, "grouped transposed convolution")
        trace.union.fix(trace.axis(weight, 0), "grouped transposed convolution")
        trace.union.fix(trace.axis(weight, 1), "grouped transposed convolution")
        return trace.fresh(node, "grouped transposed convolution")
    ids = _weighted(trace, x, weight, bias, 1, out_axis=1, in_axis=0)
    scale = math.prod(shape_of(weight)[2:]) * math.prod(shape_of(node.args[0])[2:]) * shape_of(node)[0]
    trace.count(node, "deconv", scale, outputs=ids, inputs=trace.axis(weight, 0))
    return Value(ids)


def linear(trace: Trace, node: Call) -> Value:
    weight, bias = node.args[1], argument(node, 2, "bias")
    x, rank = trace.value(node.args[0], axis=len(shape_of(node.args[0])) - 1), len(shape_of(node))
    ids = trace.axis(weight, 0)
    if x.axis != rank - 1 or x.ids.ndim != 1:
        trace.union.fix(x.ids, "linear layer over another axis")
        trace.union.fix(trace.axis(weight, 1), "linear layer over another axis")
    else:
        trace.union.union(x.ids, trace.axis(weight, 1))
    if bias is not None:
        trace.union.union(trace.axis(bias, 0), ids)
    trace.count(node, "linear", math.prod(shape_of(node)[:-1]), outputs=ids, inputs=trace.axis(weight, 1))
    return Value(ids, axis=rank - 1)


def _weighted(trace: Trace, x: Value, weight: Any, bias: Any, groups: int, out_axis: int, in_axis: int) -> np.ndarray:
    out_ids, in_ids = trace.axis(weight, out_axis), trace.axis(weight, in_axis)
    source = trace.flat(x, "convolution over another axis")
    if len(source) == groups:  # depthwise: each input channel owns its outputs, and the weight's axis 1 has length 1
        trace.union.fix(in_ids, "")
        trace.union.union(source[:, None], out_ids.reshape(groups, -1))
    else:
        trace.union.union(source.reshape(groups, -1), in_ids[None, :])
        trace.union.union(out_ids.reshape(groups, -1), out_ids.reshape(groups, -1)[:1])
    if bias is not None:
        trace.union.union(trace.axis(bias, 0), out_ids)
    return out_ids


def batch_norm(trace: Trace, node: Call) -> Value:
    """Batch and instance norm: weight, bias and running statistics have the channels of the input."""
    x = trace.value(node.args[0])
    source = trace.flat(x, "norm over another axis")
    for tensor in node.args[1:5]:
        if isinstance(tensor, Node):
            trace.union.union(trace.axis(tensor, 0), source)
    trace.count(node, "norm", 2 * math.prod(shape_of(node)) // shape_of(node)[1], outputs=source)  # as fvcore
    return Value(source)


def prelu(trace: Trace, node: Call) -> Value:
    x = trace.value(node.args[0])
    weight = trace.axis(node.args[1], 0)
    if len(weight) > 1:
        trace.union.union(weight, trace.flat(x, "prelu over another axis"))
    else:
        trace.union.fix(weight, "one slope for all channels")
    return x


def elementwise(trace: Trace, node: Call) -> Value | None:
    """add, sub, mul, div: channels at the same place are tied; an operand of length 1 there is broadcast."""
    tensors = [a for a in node.args[:2] if isinstance(a, Node) and hasattr(a.meta.get("val"), "shape")]
    out = shape_of(node)
    values = []
    for t in tensors:
        shape = shape_of(t)
        if not shape or math.prod(shape) == 1:
            continue
        if t in trace.parameters:  # a free parameter, broadcast against the feature map
            values.append((t, None))
        else:
            values.append((t, trace.value(t)))
    followed = [(t, v) for t, v in values if v is not None]
    if not followed:
        return None
    # positions are counted from the right, as broadcasting does
    lead, ref = max(followed, key=lambda p: (p[1].ids.size, len(shape_of(p[0]))))
    lead_axis = ref.axis + len(out) - len(shape_of(lead))
    for t, v in values:
        if t is lead:
            continue
        shift = len(out) - len(shape_of(t))
        if v is None:
            position = lead_axis - shift
            shape = shape_of(t)
            for axis in range(len(shape)):
                if ref.ids.ndim == 1 and axis == position and shape[axis] == ref.ids.shape[0]:
                    trace.union.union(trace.axis(t, axis), ref.ids)
                elif axis == position and shape[axis] != 1:
                    trace.union.fix(ref.ids, "parameter of another shape")
        elif v.axis + shift == lead_axis and v.ids.shape == ref.ids.shape:
            trace.union.union(v.ids, ref.ids)
        elif v.axis + shift == lead_axis and v.ids.size == 1:
            trace.union.fix(v.ids, "broadcast over channels")
        else:
            trace.union.fix(v.ids, "added across axes")
            trace.union.fix(ref.ids, "added across axes")
    return Value(ref.ids, lead_axis)


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


def max_pool_with_indices(trace: Trace, node: Call) -> tuple[Value | None, ...]:
    x = trace.value(node.args[0])
    return x, x


def max_unpool(trace: Trace, node: Call) -> Value:
    """The values and the indices that place them belong together, channel by channel."""
    x, indices = trace.value(node.args[0]), trace.value(node.args[1])
    trace.union.union(x.ids, indices.ids)
    return x


def getitem(trace: Trace, node: Call) -> Value | None:
    whole = trace.values.get(node.args[0])
    return whole[node.args[1]] if isinstance(whole, tuple) else None


def resize(trace: Trace, node: Call) -> Value:
    x = trace.value(node.args[0])
    if "bilinear" in str(node.target):
        trace.count(node, "resize", 4 * math.prod(shape_of(node)) // shape_of(node)[1], outputs=x.ids)
    return x


def adaptive_pool(trace: Trace, node: Call) -> Value:
    x = trace.value(node.args[0])
    trace.count(node, "pool", math.prod(shape_of(node.args[0])) // shape_of(node.args[0])[1], outputs=x.ids)
    return x


def reduce(trace: Trace, node: Call) -> Value | None:
    """mean / amax over space keeps the channels; over the channels themselves it fixes them."""
    x, shape = trace.value(node.args[0]), shape_of(node.args[0])
    dims = argument(node, 1, "dim")
    dims = range(len(shape)) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    dims = {int(d) % len(shape) for d in dims}
    if any(x.axis <= d < x.axis + x.ids.ndim for d in dims):
        trace.union.fix(x.ids, f"{node.target} over the channels")
        return None
    keep = len(shape_of(node)) == len(shape)
    return Value(x.ids, x.axis if keep else x.axis - sum(d < x.axis for d in dims))


def softmax(trace: Trace, node: Call) -> Value:
    x, axis = trace.value(node.args[0]), int(node.args[1]) % len(shape_of(node))
    if x.axis <= axis < x.axis + x.ids.ndim:
        trace.union.fix(x.ids, "softmax over the channels")
    return x


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
    axis = _axis_after(lead, after)
    rest = math.prod(before[x.axis + x.ids.ndim :])
    if axis is not None:
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


def _axis_after(lead: int, shape: tuple[int, ...]) -> int | None:
    total = 1
    for axis, size in enumerate(shape):
        if total == lead and not (lead == 1 and axis == 0):
            return axis
        total *= size
    return None


def permute(trace: Trace, node: Call) -> Value:
    x, rank = trace.value(node.args[0]), len(shape_of(node))
    if node.target is aten.permute.default:
        order = [int(d) % rank for d in node.args[1]]
    else:
        order = list(range(rank))
        a, b = int(node.args[1]) % rank, int(node.args[2]) % rank
        order[a], order[b] = order[b], order[a]
    span = range(x.axis, x.axis + x.ids.ndim)
    places = [order.index(d) for d in span]
    if sorted(places) != list(range(min(places), min(places) + len(places))):
        trace.union.fix(x.ids, "channel axes drawn apart")
        return trace.fresh(node, "channel axes drawn apart")
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
    """Spatial axes of length 1 vanish (they stand behind the channels)."""
    x, before, after = trace.value(node.args[0]), shape_of(node.args[0]), shape_of(node)
    if before[: x.axis + x.ids.ndim] == after[: x.axis + x.ids.ndim]:
        return x
    trace.union.fix(x.ids, "squeezed before the channels")
    return trace.fresh(node, "squeezed before the channels")


def group_norm(trace: Trace, node: Call) -> Value:
    x, groups = trace.value(node.args[0]), int(node.args[1])
    source = trace.flat(x, "norm over another axis")
    for tensor in node.args[2:4]:
        if isinstance(tensor, Node):
            trace.union.union(trace.axis(tensor, 0), source)
    trace.union.fix(source, f"group norm: its {groups} groups mix channels")
    return Value(source)


_SAME = [
    "relu",
    "relu_",
    "relu6",
    "relu6_",
    "leaky_relu",
    "leaky_relu_",
    "elu",
    "elu_",
    "silu",
    "silu_",
    "gelu",
    "hardswish",
    "hardswish_",
    "hardsigmoid",
    "hardsigmoid_",
    "hardtanh",
    "hardtanh_",
    "sigmoid",
    "sigmoid_",
    "tanh",
    "tanh_",
    "softplus",
    "mish",
    "mish_",
    "clamp",
    "clamp_",
    "clamp_min",
    "neg",
    "abs",
    "exp",
    "sqrt",
    "pow",
    "dropout",
    "dropout_",
    "feature_dropout",
    "alpha_dropout",
    "max_pool2d",
    "avg_pool2d",
    "upsample_nearest2d",
    "_upsample_nearest_exact2d",
    "contiguous",
    "clone",
    "detach",
    "detach_",
    "_to_copy",
    "to",
    "alias",
    "lift_fresh_copy",
    "rsub",
]

HANDLERS: dict[str, Handler] = {
    **dict.fromkeys((f"aten.{n}" for n in _SAME), same),
    "aten.conv2d": conv,
    "aten.conv1d": conv,
    "aten.conv_transpose2d": deconv,
    "aten.linear": linear,
    "aten.batch_norm": batch_norm,
    "aten.instance_norm": batch_norm,
    "aten.group_norm": group_norm,
    "aten.prelu": prelu,
    **dict.fromkeys((f"aten.{n}{i}" for n in ("add", "sub", "mul", "div") for i in ("", "_")), elementwise),
    **dict.fromkeys(("aten.maximum", "aten.minimum"), elementwise),
    "aten.cat": cat,
    "aten.max_pool2d_with_indices": max_pool_with_indices,
    "aten.max_unpool2d": max_unpool,
    "<built-in function getitem>": getitem,
    "aten.upsample_bilinear2d": resize,
    "aten.adaptive_avg_pool2d": adaptive_pool,
    "aten.adaptive_max_pool2d": max_pool_with_indices,
    **dict.fromkeys(("aten.mean", "aten.amax", "aten.amin"), reduce),
    "aten.softmax": softmax,
    "aten.slice": slice_,
    "aten.chunk": chunk,
    **dict.fromkeys(("aten.split", "aten.split_with_sizes"), split),
    **dict.fromkeys(("aten.view", "aten.reshape", "aten.flatten", "aten._unsafe_view"), view),
    **dict.fromkeys(("aten.permute", "aten.transpose"), permute),
    "aten.pixel_shuffle": pixel_shuffle,
    "aten.pixel_unshuffle": pixel_unshuffle,
    "aten.pad": pad,
    "aten.constant_pad_nd": pad,
    **dict.fromkeys(("aten.squeeze", "aten.unsqueeze"), squeeze),
}
