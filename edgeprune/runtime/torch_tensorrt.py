"""torch-tensorrt: a second route to TensorRT's engines, out of PyTorch's own graph and not by ONNX (`deploy.route`).

It gives the serialised engine alone; `deploy/on_device/` takes it as built, and checks and measures it like any other. Read
against the sources of pytorch/TensorRT (`py/torch_tensorrt/dynamo/_compiler.py`); not run on hardware yet.

An engine built by default tells its layers' names and no types (`profiling_verbosity` is LAYER_NAMES_ONLY), and nobody could
tell an FP16 engine from an FP32 one; it is DETAILED inside `torch_tensorrt.dynamo.Debugger`, and there is no other switch.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import tempfile
import warnings
from typing import Any

from edgeprune.errors import EngineError

INSTALL = "torch-tensorrt is not installed here: pip install torch-tensorrt, of the version that belongs to this torch"
LEVEL = 3  # optimization_level, as on the other route
_MISSING = "Interpretation will fail due to missing operations"  # the warning that names them


def installed() -> bool:
    """Can engines be built by this route?"""
    return importlib.util.find_spec("torch_tensorrt") is not None


def engine(program: Any) -> bytes:
    """The serialised TensorRT engine of a whole network, for this machine's GPU; types are those of the program.

    Args:
        program: a `torch.export.ExportedProgram`. No converter casts to uint8, so neither must the program.

    Raises:
        EngineError: it is not installed, an operator has no converter, or the engine cannot be built.
    """
    if not installed():
        raise EngineError(INSTALL)
    root, before = logging.getLogger(), logging.root.manager.disable
    level, handlers = root.level, root.handlers[:]
    logging.disable(logging.CRITICAL)  # its errors carry the whole graph
    with tempfile.TemporaryDirectory() as logs, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            dynamo = importlib.import_module("torch_tensorrt.dynamo")
            with dynamo.Debugger(log_level="error", engine_builder_monitor=False, logging_dir=logs):
                plan = dynamo.convert_exported_program_to_serialized_trt_engine(
                    program, arg_inputs=list(program.example_inputs[0]), disable_tf32=True, optimization_level=LEVEL,
                    use_explicit_typing=True,  # what versions without it do anyway
                )  # fmt: skip
        except Exception as error:  # its errors have no common class
            raise EngineError(f"torch-tensorrt builds no engine of the network: {_why(error, warned)}") from error
        finally:
            root.setLevel(level)  # the debugger leaves handlers of its own
            root.handlers[:] = handlers
            logging.disable(before)
    return bytes(plan)


def _why(error: BaseException, warned: list[warnings.WarningMessage]) -> str:
    """The operators that have no converter, where that is the reason; else the innermost error's first line."""
    told = next((str(w.message) for w in warned if str(w.message).startswith(_MISSING)), "")
    if told:
        return f"no converter for {', '.join(line.split()[-1] for line in told.splitlines()[1:] if line.strip())}"
    while error.__cause__ is not None:
        error = error.__cause__
    return next((line.strip()[:200] for line in str(error).splitlines() if line.strip()), type(error).__name__)
