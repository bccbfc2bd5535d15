"""The backends that compile and run ONNX graphs, by name. They know ONNX files and no torch modules."""

from __future__ import annotations

from edgeprune.runtime import onnxruntime, openvino
from edgeprune.runtime.engine import Engine

__all__ = ["BACKENDS", "Engine"]

BACKENDS = {
    "openvino": openvino,
    "onnxruntime": onnxruntime,
}
