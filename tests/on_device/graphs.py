"""A small graph as it ships (uint8 NHWC in, uint8 classes or float32 logits out), with the f16 one beside it."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeprune.deploy.half import to_float16

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 32, 48, 3)).astype(np.uint8)


def write(home: Path, name: str = "pruned", seed: int = 0, typed: bool = True, logits: bool = False) -> Path:
    """`name.onnx`, and with `typed` also `name.f16.onnx`; with `logits` those of a whole image come out."""
    random = np.random.default_rng(seed)
    weights = {
        "scale": np.array(1 / 64, np.float32), "w0": random.normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32),
        "w1": random.normal(0, 0.3, (4, 8, 3, 3)).astype(np.float32), "b1": random.normal(0, 1, 4).astype(np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("Cast", ["image"], ["x0"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["x0"], ["x1"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["x1", "scale"], ["x2"]),
        helper.make_node("Conv", ["x2", "w0"], ["x3"], pads=[1] * 4),
        helper.make_node("Relu", ["x3"], ["x4"]),
        helper.make_node("Conv", ["x4", "w1", "b1"], ["x5"], pads=[1] * 4),
        helper.make_node("ArgMax", ["x5"], ["x6"], axis=1, keepdims=0),
        helper.make_node("Cast", ["x6"], ["classes"], to=TensorProto.UINT8),
    ]
    out = helper.make_tensor_value_info("classes", TensorProto.UINT8, [1, 32, 48])
    if logits:
        weights["axes"] = np.array([2, 3], np.int64)
        nodes[-2:] = [
            helper.make_node("GlobalAveragePool", ["x5"], ["x6"]), helper.make_node("Squeeze", ["x6", "axes"], ["logits"]),
        ]  # fmt: skip
        out = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 4])
    graph = helper.make_graph(
        nodes, "small", [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 32, 48, 3])],
        [out],
        [numpy_helper.from_array(value, key) for key, value in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path = home / f"{name}.onnx"
    onnx.save(model, path)
    if typed:
        onnx.save(to_float16(model), path.with_suffix(".f16.onnx"))
    return path
