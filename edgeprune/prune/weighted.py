"""Handlers of operators with weights (convolutions, linear layers, norms) and of products of two computed tensors; see `operators.py`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn
from torch.fx import Node

from edgeprune.prune.values import Call, Value, argument, shape_of

if TYPE_CHECKING:
    from edgeprune.prune.groups import Trace

_FOREIGN = "read by a weight that is no module of torch's own"


def conv(trace: Trace, node: Call) -> Value:
    """(Grouped, depthwise) convolution; in grouped ones position j of every group stands or falls together."""
    x, weight, bias = trace.value(node.args[0]), node.args[1], argument(node, 2, "bias")
    groups = int(argument(node, 6, "groups", 1))
    if groups > 1 and not isinstance(trace.owner(weight), (nn.Conv1d, nn.Conv2d)):
        # a blur; who knows where it keeps its count of groups
        for ids in (x.ids, trace.axis(weight, 0), trace.axis(weight, 1)):
            trace.union.fix(ids, "grouped convolution that is no Conv2d")
        return trace.fresh(node, "grouped convolution that is no Conv2d")
    ids = _weighted(trace, x, weight, bias, groups, out_axis=0, in_axis=1)
    if weight in trace.parameters and not isinstance(trace.owner(weight), (nn.Conv1d, nn.Conv2d)):
        trace.union.fix(x.ids, _FOREIGN)  # what a removed channel emits could not be folded into it
    kernel = math.prod(shape_of(weight)[2:])
    pixels = math.prod(shape_of(node)[2:])
    inputs = None if groups > 1 and shape_of(weight)[1] == 1 else trace.axis(weight, 1)
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
    if weight in trace.parameters and not isinstance(trace.owner(weight), nn.Linear):
        trace.union.fix(x.ids, _FOREIGN)
    trace.count(node, "linear", math.prod(shape_of(node)[:-1]), outputs=ids, inputs=trace.axis(weight, 1))
    return Value(ids, axis=rank - 1)


def _weighted(trace: Trace, x: Value, weight: Any, bias: Any, groups: int, out_axis: int, in_axis: int) -> np.ndarray:
    out_ids, in_ids = trace.axis(weight, out_axis), trace.axis(weight, in_axis)
    source = trace.flat(x, "convolution over another axis")
    if x.axis != 1 or x.ids.ndim != 1:  # tokens made a map again: which channels they are is not followed
        for ids in (in_ids, out_ids) if groups > 1 else (in_ids,):
            trace.union.fix(ids, "convolution over another axis")
    elif len(source) == groups > 1 and trace.parameters.get(weight, "").rpartition(".")[0] not in trace.tied:
        # depthwise: each input channel owns its outputs, and the weight's axis 1 has length 1
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


def group_norm(trace: Trace, node: Call) -> Value:
    x, groups = trace.value(node.args[0]), int(node.args[1])
    source = trace.flat(x, "norm over another axis")
    for tensor in node.args[2:4]:
        if isinstance(tensor, Node):
            trace.union.union(trace.axis(tensor, 0), source)
    trace.union.fix(source, f"group norm: its {groups} groups mix channels")
    return Value(source)


def layer_norm(trace: Trace, node: Call) -> Value:
    """The norm's mean and variance are over the channels themselves, so all of them stay."""
    x, shape = trace.value(node.args[0]), shape_of(node.args[0])
    first = len(shape) - len(node.args[1])
    last = x.axis + x.ids.ndim - 1
    for tensor in node.args[2:4]:
        if isinstance(tensor, Node):
            for axis in range(len(shape_of(tensor))):
                trace.union.fix(trace.axis(tensor, axis), "layer norm: it mixes channels")
    if last >= first:
        trace.union.fix(x.ids, "layer norm: it mixes channels")
    trace.count(node, "norm", 5 * math.prod(shape) // x.ids.size, outputs=x.ids.ravel())  # as fvcore
    return x


def prelu(trace: Trace, node: Call) -> Value:
    x = trace.value(node.args[0])
    weight = trace.axis(node.args[1], 0)
    if len(weight) > 1:
        trace.union.union(weight, trace.flat(x, "prelu over another axis"))
    else:
        trace.union.fix(weight, "one slope for all channels")
    return x


def matmul(trace: Trace, node: Call) -> Value:
    """A product of two computed tensors (attention): its sums are over numbers of both, so their channels stay."""
    for tensor in node.args[:2]:
        trace.union.fix(trace.value(tensor).ids, "product of two computed tensors")
    result = trace.fresh(node, "product of two computed tensors")
    sums = shape_of(node.args[0])[-1]
    trace.count(node, "matmul", sums * math.prod(shape_of(node)) // result.ids.size, outputs=result.ids)
    return result


def attention(trace: Trace, node: Call) -> Value:
    """scaled_dot_product_attention: two products of computed tensors, as `matmul`."""
    query, key, value = node.args[:3]
    for tensor in (query, key, value):
        trace.union.fix(trace.value(tensor).ids, "product of two computed tensors")
    result = trace.fresh(node, "product of two computed tensors")
    each = math.prod(shape_of(query)[:-1]) * shape_of(key)[-2]
    macs = each * (shape_of(query)[-1] + shape_of(value)[-1])
    trace.count(node, "matmul", macs // result.ids.size, outputs=result.ids)
    return result
