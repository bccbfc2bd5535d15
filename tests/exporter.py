"""torch's ONNX exporter parses the sources of its 500 operators, and reads their signatures, anew in every export: a third of what
small networks take."""

import contextlib
import functools


def parse_once(now: bool = False) -> None:
    """Keep the parsed operators and their table; what is exported is the same. Nothing is done where another torch keeps them elsewhere."""
    with contextlib.suppress(ImportError, AttributeError):
        from torch.onnx._internal.exporter._registration import ONNXRegistry, onnxscript_apis

        if not hasattr(onnxscript_apis.get_torchlib_ops, "cache_info"):
            onnxscript_apis.get_torchlib_ops = functools.cache(onnxscript_apis.get_torchlib_ops)
            ONNXRegistry.from_torchlib = staticmethod(functools.cache(ONNXRegistry.from_torchlib))
        if now:
            ONNXRegistry.from_torchlib(opset_version=20)  # recipes'
