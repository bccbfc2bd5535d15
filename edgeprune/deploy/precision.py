"""Precision written into the ONNX graph, for engines that take types as they find them (strongly typed TensorRT).

`mixed` casts a graph to FP16 and decides by real images which nodes stay in FP32; `quantised` adds explicit Q/DQ pairs.
Both take and give `onnx.ModelProto`. They come behind simplifying, never before it: onnxsim folds the Q/DQ of weights away.

Why ONNX Runtime's quantiser: NNCF quantises ONNX graphs with unsigned steps, some of them one a channel, and refuses to be told
otherwise; TensorRT takes neither. ONNX Runtime's gives what TensorRT wants: signed, symmetric, one step a tensor, one a channel for weights.
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

from edgeprune.deploy.half import checked, floats_of, named, to_float16
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
            return checked(onnx.load(target))
    except Exception as error:  # its errors have no common class
        raise ExportError(f"precision: the graph cannot be quantised: {str(error).strip().splitlines()[0]}") from error
    finally:
        logging.disable(before)


def magnitudes(model: onnx.ModelProto, batch: list[np.ndarray]) -> dict[str, float]:
    """For each node the greatest magnitude among its float inputs, outputs and weights on (1, H, W, 3) images.

    Infinite for weights, and steps of Q/DQ pairs, that FP16 cannot hold.
    """
    floats, probe = floats_of(model), onnx.ModelProto()
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


def _session(model: onnx.ModelProto) -> Any:
    import onnxruntime as ort

    return ort.InferenceSession(model.SerializeToString(), options(), providers=["CPUExecutionProvider"])


def _answers(model: onnx.ModelProto, batch: list[np.ndarray]) -> list[np.ndarray]:
    run = _session(model)
    name = run.get_inputs()[0].name
    return [np.asarray(run.run(None, {name: image})[0]) for image in batch]
