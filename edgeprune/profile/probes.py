"""Probe graphs: many convolutions of wanted signatures side by side in one ONNX file, so that one run times them all.

Each branch is one convolution with its fused activation. All of them run in turn in every inference, which interleaves
the repeats by itself; copies of a reference convolution at both ends tell how fast the machine was while they ran.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgeprune.runtime.engine import Layer
from edgeprune.runtime.signature import Signature


class Key(NamedTuple):
    """A convolution with its channel counts: inputs (of one group; 0 where depthwise) and outputs."""

    signature: Signature
    inputs: int
    outputs: int


REFERENCE = Key(Signature("conv", (3, 3), (1, 1), (1, 1), (1, 1), 1, (64, 128)), 64, 64)
_COPIES = 3  # of the reference, at each end
_MOST_BYTES, _MOST_KEYS = 300_000_000, 96


def batches(keys: Sequence[Key]) -> Iterator[list[Key]]:
    """Split keys into probe graphs that fit into memory; convolutions of a like size stand together."""
    batch: list[Key] = []
    size = 0
    for key in sorted(keys, key=lambda k: k.signature.macs(k.inputs, k.outputs)):
        own = key.signature.bytes(key.inputs, key.outputs, 4)
        if batch and (len(batch) >= _MOST_KEYS or size + own > _MOST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(key)
        size += own
    if batch:
        yield batch


def write(keys: Sequence[Key], path: Path, precision: str, typed: bool = False) -> None:
    """Write the probe graph.

    INT8 is written into it, each branch quantised on both sides (Q/DQ), as deployed graphs are. With `typed` there is
    `NAME.<precision>.onnx` beside it, too: what an engine gets that takes types as it finds them. Such an engine also makes
    one kernel of convolutions that read the same map, so each branch has an input of its own there.
    """
    import onnx

    onnx.save(_graph(keys, _Types("f32", np.uint8, 128 if precision == "int8" else None)), path)
    if typed and precision != "f32":
        kept = _Types("f16", np.int8, 0 if precision == "int8" else None, apart=True)
        onnx.save(_graph(keys, kept), path.with_suffix(f".{precision}.onnx"))


class _Types(NamedTuple):
    """Numbers in a probe graph: of maps and weights; of quantised maps, with their zero (None: nothing is quantised)."""

    kind: str
    quantised: type
    zero: int | None
    apart: bool = False  # has each branch an input of its own?


def _graph(keys: Sequence[Key], types: _Types) -> Any:
    from onnx import TensorProto, helper, numpy_helper

    kind, whole = {"f32": (np.float32, TensorProto.FLOAT), "f16": (np.float16, TensorProto.FLOAT16)}[types.kind]
    rng = np.random.default_rng(0)
    pool = (rng.standard_normal(1 << 20) * 0.05).astype(np.float32)
    nodes, inputs, outputs, weights = [], {}, [], []

    def constant(value: Any, dtype: Any, name: str) -> str:
        weights.append(numpy_helper.from_array(np.asarray(value).astype(dtype), name))
        return name

    if types.zero is not None:
        for name, zero in (("in", types.zero), ("out", 0)):
            constant(0.03, kind, f"{name}_scale")
            constant(zero, types.quantised, f"{name}_zero")
    for number, (s, inp, out) in enumerate([*[REFERENCE] * _COPIES, *keys, *[REFERENCE] * _COPIES]):
        groups = out if s.depthwise else s.groups
        taken = out if s.depthwise else inp * groups
        source = f"x{taken}_{s.size[0]}x{s.size[1]}_{s.batch}" + (f"_{number}" if types.apart else "")
        inputs[source] = [s.batch, taken, *s.size]
        shape = (out, 1 if s.depthwise else inp, *s.kernel)
        if s.kind == "deconv":
            shape = (taken, out, *s.kernel)
        name, weight, x = f"probe{number}", f"w{number}", source
        values = np.resize(np.roll(pool, number), shape)  # equal branches would be merged
        # a transposed one's name is lost in some engines with a bias
        bias = [] if s.kind == "deconv" else [constant(np.full(out, 0.01), kind, f"b{number}")]
        if types.zero is not None:
            constant(np.clip(values * 500, -127, 127), np.int8, f"{weight}_q")
            constant(np.full(out, 0.002), kind, f"{weight}_s")
            constant(np.zeros(out), np.int8, f"{weight}_z")
            axis = 1 if s.kind == "deconv" else 0
            nodes.append(helper.make_node("DequantizeLinear", [f"{weight}_{k}" for k in "qsz"], [weight], axis=axis))
            nodes.append(helper.make_node("QuantizeLinear", [source, "in_scale", "in_zero"], [f"{name}_q"]))
            nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", "in_scale", "in_zero"], [f"{name}_x"]))
            x = f"{name}_x"
        else:
            constant(values, kind, weight)
        nodes.append(
            helper.make_node(
                "ConvTranspose" if s.kind == "deconv" else "Conv", [x, weight, *bias], [f"{name}_c"], name=name,
                kernel_shape=s.kernel, strides=s.stride, pads=[*s.padding, *s.padding], dilations=s.dilation, group=groups,
            )
        )  # fmt: skip
        nodes.append(helper.make_node("Relu", [f"{name}_c"], [f"{name}_y"]))
        last = f"{name}_y"
        if types.zero is not None:
            nodes.append(helper.make_node("QuantizeLinear", [last, "out_scale", "out_zero"], [f"{name}_o"]))
            nodes.append(helper.make_node("DequantizeLinear", [f"{name}_o", "out_scale", "out_zero"], [f"{name}_z"]))
            last = f"{name}_z"
        outputs.append(helper.make_tensor_value_info(last, whole, None))
    sources = [helper.make_tensor_value_info(n, whole, shape) for n, shape in inputs.items()]
    graph = helper.make_graph(nodes, "probes", sources, outputs, weights)
    opset, version = (13, 8) if types.kind == "f32" else (19, 9)  # 19: scales of f16
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=version)


def read(keys: Sequence[Key], found: Sequence[Layer]) -> tuple[dict[Key, float], float]:
    """(milliseconds of each key, the reference's) from the layers of a probe graph's engine."""
    times: dict[int, float] = {}
    for layer in found:
        number = re.match(r"probe(\d+)(?!\d)", layer.name)
        if number and "conv" in layer.kind.lower():
            times[int(number[1])] = layer.ms
    ends = [ms for n, ms in times.items() if not _COPIES <= n < _COPIES + len(keys)]
    by_key = {k: times[n] for n, k in enumerate(keys, _COPIES) if n in times}
    return by_key, float(np.median(ends)) if ends else float("nan")
