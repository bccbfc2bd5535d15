"""The backends that compile and run ONNX graphs, by name. They know ONNX files and no torch modules."""

from __future__ import annotations

from edgeprune.runtime import onnxruntime, openvino, tensorrt_rtx
from edgeprune.runtime.engine import Engine

__all__ = ["AHEAD", "BACKENDS", "TYPED", "Engine"]

BACKENDS = {
    "openvino": openvino,
    "onnxruntime": onnxruntime,
    "tensorrt_rtx": tensorrt_rtx,
}
AHEAD = {"tensorrt_rtx": tensorrt_rtx.ahead}  # what builds engines where their device is not
TYPED = {"tensorrt_rtx"}  # what takes a graph's types as they are: the precision must be written into the graph
