"""The backends that compile and run graphs, by name. They know ONNX files and no torch modules, but for `inductor`."""

from __future__ import annotations

from edgeprune.runtime import inductor, onnxruntime, openvino, tensorrt_rtx
from edgeprune.runtime.engine import Engine

__all__ = ["AHEAD", "BACKENDS", "TYPED", "UNTIMED", "Engine"]

BACKENDS = {
    "openvino": openvino,
    "onnxruntime": onnxruntime,
    "tensorrt_rtx": tensorrt_rtx,
    "inductor": inductor,
}
AHEAD = {"tensorrt_rtx": tensorrt_rtx.ahead}  # what builds engines where their device is not
TYPED = {
    "tensorrt",
    "tensorrt_rtx",
}  # what takes a graph's types as they are: the precision is written into a graph beside it
UNTIMED = {"tensorrt_rtx", "inductor"}  # what tells no times by layer: a latency budget is planned by estimate
