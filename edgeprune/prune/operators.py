"""How each ATen operator carries channels: one small handler an operator, all of them in `HANDLERS`.

The list is closed. An operator that is not on it makes the channels that reach it unprunable; nothing is guessed.
A handler gets the trace and the node and returns the `Value` of its result (or None: no channels are followed).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch.fx import Node

from edgeprune.prune.moving import (
    cat,
    chunk,
    pad,
    permute,
    pixel_shuffle,
    pixel_unshuffle,
    slice_,
    split,
    squeeze,
    unsqueeze,
    view,
)
from edgeprune.prune.values import Call, Handler, Value, argument, shape_of
from edgeprune.prune.weighted import attention, batch_norm, conv, deconv, group_norm, layer_norm, linear, matmul, prelu

if TYPE_CHECKING:
    from edgeprune.prune.groups import Trace


def same(trace: Trace, node: Call) -> Value:
    """The result has the channels of the first argument."""
    return trace.value(node.args[0])


def spatial(trace: Trace, node: Call) -> Value:
    """Pooling and resizing: the channels of the first argument, if they do not lie in the last two axes themselves."""
    x = trace.value(node.args[0])
    if x.axis + x.ids.ndim > len(shape_of(node.args[0])) - 2:
        trace.union.fix(x.ids, "pooled or resized over the channels")
    return x


def elementwise(trace: Trace, node: Call) -> Value | None:
    """add, sub, mul, div: channels at the same place are tied; an operand of length 1 there is broadcast."""
    tensors = [a for a in node.args[:2] if isinstance(a, Node) and hasattr(a.meta.get("val"), "shape")]
    out = shape_of(node)
    values = []
    for t in tensors:
        shape = shape_of(t)
        if not shape or math.prod(shape) == 1:  # one number, at whatever axis
            if isinstance(v := trace.values.get(t), Value):
                trace.union.fix(v.ids, "broadcast over channels")
            continue
        if t in trace.parameters:  # a free parameter, broadcast against the feature map
            values.append((t, None))
        else:
            values.append((t, trace.value(t)))
    followed = [(t, v) for t, v in values if v is not None]
    if not followed:  # of parameters alone
        values = followed = [(t, trace.value(t)) for t, _ in values]
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
            why = "a parameter that is reshaped" if trace.free & {t, lead} else "added across axes"
            trace.union.fix(v.ids, why)
            trace.union.fix(ref.ids, why)
    return Value(ref.ids, lead_axis)


def max_pool_with_indices(trace: Trace, node: Call) -> tuple[Value | None, ...]:
    x = spatial(trace, node)
    return x, x


def max_unpool(trace: Trace, node: Call) -> Value:
    """The values and the indices that place them belong together, channel by channel."""
    x, indices = spatial(trace, node), trace.value(node.args[1])
    trace.union.union(x.ids, indices.ids)
    return x


def getitem(trace: Trace, node: Call) -> Value | None:
    whole = trace.values.get(node.args[0])
    return whole[node.args[1]] if isinstance(whole, tuple) else None


def resize(trace: Trace, node: Call) -> Value:
    x = spatial(trace, node)
    cost = 4 if "bilinear" in str(node.target) else 1  # as fvcore
    trace.count(node, "resize", cost * math.prod(shape_of(node)) // shape_of(node)[1], outputs=x.ids)
    return x


def adaptive_pool(trace: Trace, node: Call) -> Value:
    x = spatial(trace, node)
    trace.count(node, "pool", math.prod(shape_of(node.args[0])) // shape_of(node.args[0])[1], outputs=x.ids)
    return x


def reduce(trace: Trace, node: Call) -> Value | None:
    """mean / sum / amax over space keeps the channels; over the channels themselves it fixes them."""
    x, shape = trace.value(node.args[0]), shape_of(node.args[0])
    dims = argument(node, 1, "dim")
    dims = range(len(shape)) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    dims = {int(d) % len(shape) for d in dims}
    if any(x.axis <= d < x.axis + x.ids.ndim for d in dims):
        trace.union.fix(x.ids, f"{node.target.overloadpacket.__name__} over the channels")
        return None
    keep = len(shape_of(node)) == len(shape)
    return Value(x.ids, x.axis if keep else x.axis - sum(d < x.axis for d in dims))


def turned(trace: Trace, node: Call) -> Value:
    """flip, roll: of other axes than the channels'."""
    x = trace.value(node.args[0])
    dims = node.args[-1] if node.args[-1] else range(len(shape_of(node)))
    if any(x.axis <= int(d) % len(shape_of(node)) < x.axis + x.ids.ndim for d in dims):
        trace.union.fix(x.ids, f"{node.target.overloadpacket.__name__} over the channels")
    return x


def softmax(trace: Trace, node: Call) -> Value:
    x, axis = trace.value(node.args[0]), int(node.args[1]) % len(shape_of(node))
    if x.axis <= axis < x.axis + x.ids.ndim:
        trace.union.fix(x.ids, "softmax over the channels")
    return x


def nothing(trace: Trace, node: Call) -> None:
    """Checks that the capture puts in: they give no tensor and change none."""


def expand(trace: Trace, node: Call) -> Value | None:
    """expand, expand_as, repeat: channels stay where their axis keeps its size (a gate (B, C, 1, 1) over its map); new axes
    come in front."""
    x, before, after = trace.value(node.args[0]), shape_of(node.args[0]), shape_of(node)
    axis = x.axis + len(after) - len(before)
    if before[x.axis : x.axis + x.ids.ndim] == after[axis : axis + x.ids.ndim]:
        return Value(x.ids, axis)
    trace.union.fix(x.ids, "expanded over its channels")
    return None


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
    "clamp_max",
    "selu",
    "selu_",
    "celu",
    "celu_",
    "log_sigmoid",
    "softshrink",
    "hardshrink",
    "threshold",
    "threshold_",
    "log",
    "log1p",
    "erf",
    "square",
    "rsqrt",
    "reciprocal",
    "zeros_like",
    "ones_like",
    "full_like",
    "neg",
    "abs",
    "exp",
    "sqrt",
    "pow",
    "dropout",
    "dropout_",
    "feature_dropout",
    "alpha_dropout",
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
    **dict.fromkeys(("aten.max_pool2d", "aten.avg_pool2d", "aten._upsample_nearest_exact2d"), spatial),
    **dict.fromkeys(
        ("aten.upsample_bicubic2d", "aten._upsample_bilinear2d_aa", "aten._upsample_bicubic2d_aa"), spatial
    ),
    **dict.fromkeys(("aten.flip", "aten.roll"), turned),
    "aten.conv2d": conv,
    "aten.conv1d": conv,
    "aten.conv_transpose2d": deconv,
    "aten.linear": linear,
    "aten.batch_norm": batch_norm,
    "aten.instance_norm": batch_norm,
    "aten.group_norm": group_norm,
    "aten.layer_norm": layer_norm,
    **dict.fromkeys(("aten.matmul", "aten.bmm"), matmul),
    "aten.scaled_dot_product_attention": attention,
    "aten.prelu": prelu,
    **dict.fromkeys((f"aten.{n}{i}" for n in ("add", "sub", "mul", "div") for i in ("", "_")), elementwise),
    **dict.fromkeys(("aten.maximum", "aten.minimum"), elementwise),
    "aten.cat": cat,
    "aten.max_pool2d_with_indices": max_pool_with_indices,
    "aten.max_unpool2d": max_unpool,
    "<built-in function getitem>": getitem,
    **dict.fromkeys(("aten.upsample_bilinear2d", "aten.upsample_nearest2d"), resize),
    "aten.adaptive_avg_pool2d": adaptive_pool,
    "aten.adaptive_max_pool2d": max_pool_with_indices,
    **dict.fromkeys(("aten.mean", "aten.sum", "aten.amax", "aten.amin", "aten.std", "aten.var"), reduce),
    "aten.softmax": softmax,
    "aten.slice": slice_,
    "aten.chunk": chunk,
    **dict.fromkeys(("aten.split", "aten.split_with_sizes"), split),
    **dict.fromkeys(
        (
            "aten.view",
            "aten.reshape",
            "aten.flatten",
            "aten.unflatten",
            "aten._unsafe_view",
            "aten.view_as",
            "aten.reshape_as",
        ),
        view,
    ),
    **dict.fromkeys(("aten.expand", "aten.expand_as", "aten.repeat"), expand),
    "aten._assert_tensor_metadata": nothing,
    **dict.fromkeys(("aten.permute", "aten.transpose"), permute),
    "aten.pixel_shuffle": pixel_shuffle,
    "aten.pixel_unshuffle": pixel_unshuffle,
    "aten.pad": pad,
    "aten.constant_pad_nd": pad,
    "aten.squeeze": squeeze,
    "aten.unsqueeze": unsqueeze,
}

# calls that engines do not fuse into a convolution: their time goes with the numbers that they move
MOVING = {
    f"aten.{name}"
    for name in (
        "max_pool2d", "max_pool2d_with_indices", "avg_pool2d", "max_unpool2d", "upsample_bilinear2d", "upsample_nearest2d",
        "_upsample_nearest_exact2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "mean", "cat", "mul", "mul_",
        "pixel_shuffle", "pixel_unshuffle", "softmax", "permute", "transpose",
    )
}  # fmt: skip
