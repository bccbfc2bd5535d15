"""torch's ONNX exporter parses the sources of its 500 operators anew in every export: a fifth of what small networks take."""

import contextlib
import functools


def parse_once(now: bool = False) -> None:
    """Keep the parsed operators; what is exported is the same. Nothing is done where another torch keeps them elsewhere."""
    with contextlib.suppress(ImportError, AttributeError):
        from torch.onnx._internal.exporter._registration import onnxscript_apis

        if not hasattr(onnxscript_apis.get_torchlib_ops, "cache_info"):
            onnxscript_apis.get_torchlib_ops = functools.cache(onnxscript_apis.get_torchlib_ops)
        if now:
            onnxscript_apis.get_torchlib_ops()
