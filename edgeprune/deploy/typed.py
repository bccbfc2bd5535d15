"""The graph that a strongly typed backend gets: simplified, then quantised, then cast; never the other way about."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgeprune.deploy.precision import mixed, quantised, same_classes
from edgeprune.errors import ExportError
from edgeprune.files import write_atomic

PRECISIONS = ("f32", "f16", "int8")
_IMAGES = 8  # that decide about FP16; INT8's steps are taken from all


def write(
    source: Path,
    target: Path,
    precision: str,
    images: list[np.ndarray],
    alike: Callable[[np.ndarray, np.ndarray], float] = same_classes,
) -> dict[str, Any]:
    """Write `source` with its precision inside; gives what was decided: nodes in FP32, agreement with what came before.

    Of INT8 the graph with its Q/DQ pairs in FP32 is left beside it (`NAME.int8.flags.onnx`): TensorRT 8 reads no other steps.

    Args:
        images: (H, W, 3) uint8, real ones; "f32" needs none.
        alike: see `precision.mixed`.

    Raises:
        ExportError: a precision that is not written into graphs, no images, or a graph that cannot be cast or quantised.
    """
    if precision not in PRECISIONS:
        raise ExportError(f"deploy.precision: {precision} cannot be written into a graph; use {', '.join(PRECISIONS)}")
    if precision == "f32":
        write_atomic(target, source.read_bytes())
        return {"precision": "f32"}
    model = onnx.load(source)
    if precision == "int8":
        model = quantised(model, images)
        write_atomic(target.with_suffix(".flags.onnx"), model.SerializeToString())
    done = mixed(model, images[:: max(1, len(images) // _IMAGES)][:_IMAGES], alike=alike)
    write_atomic(target, done.model.SerializeToString())
    return {"precision": precision, "f32_nodes": done.kept, "limit": done.limit, "agreement": done.agreement}
