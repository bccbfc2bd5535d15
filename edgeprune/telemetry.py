"""Nothing leaves the machine: what the libraries that we import would report to their makers by themselves is turned off.

`edgeprune/__init__.py` calls `turn_off` before anything else is imported. Processes that we start inherit the environment; the
device's scripts, which run without this package, do the same in `deploy/on_device/engines.py`. Looked at and found silent: torch
(gloo opens sockets between the processes of one training only), onnx, onnxscript, onnxsim, TensorRT for RTX, fvcore and iopath
(its event log has no writer outside of Meta), kornia, torchmetrics, matplotlib, Optuna. `tests/e2e/test_nothing_leaves.py` looks at a whole run.
"""

from __future__ import annotations

import os
import sys
from typing import Any

OFF = {
    # ONNX Runtime (1.29 and later) sends every session's graph and path to Microsoft, and keeps a device id and an event store
    # in the user's cache and temporary folder. It reads the variable once, when it is imported.
    "ORT_DISABLE_TELEMETRY": "1",
    # huggingface_hub, which accelerate imports, reports use and asks for newer versions of itself.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
}
# OpenVINO's converter and NNCF tell Intel by way of Google what graphs they are given. They know no variable, and keep quiet where
# this package cannot be imported.
REPORTER = "openvino_telemetry"
_REPORTS = (
    "__init__",
    "init",
    "start_session",
    "end_session",
    "send_event",
    "send_error",
    "send_stack_trace",
    "force_shutdown",
)


def turn_off() -> None:
    """Set the variables, and keep the reporter from being imported; of what a program imported before us, turn off what is left to say."""
    os.environ.update(OFF)
    reporter: Any = sys.modules.get(REPORTER)
    if reporter is None:
        sys.modules[REPORTER] = None  # type: ignore[assignment]
    else:
        for name in _REPORTS:
            setattr(reporter.Telemetry, name, _nothing)
    if runtime := sys.modules.get("onnxruntime"):
        runtime.disable_telemetry_events()


def _nothing(*args: Any, **more: Any) -> None:
    """In place of a report."""
