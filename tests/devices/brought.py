"""Results as a bundle's run brings them: whole ones, made by hand, and of a device that this machine has not."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

ANSWERS = np.zeros((2, 4, 6), np.uint8)
_SUM = "0123456789abcdef" * 4


def whole(times: list[float] | None = None, **changes: Any) -> dict[str, Any]:
    """A result.json of two images and two pairs, with every part that there can be."""
    times = times or [2.0, 2.5]
    state = {"power_mode": "MAXN", "gpu_clock": {"now": 918.0, "least": 306.0, "most": 918.0}, "hottest_c": 51.5, "throttling": {"oc1": 0}, "locked": False}  # fmt: skip
    during = {"before": state, "after": state, "samples": {"samples": 3, "gpu_mhz": [306, 918], "hottest_c": 52.0, "milliwatts": {"VDD_IN": 5000}}, "throttled": []}  # fmt: skip
    p50, p90, p95, p99 = np.percentile(times, [50, 90, 95, 99]).tolist()
    series = {
        "count": len(times), "p50": p50, "p90": p90, "p95": p95, "p99": p99, "min": min(times), "mean": float(np.mean(times)),
        "cv": 0.11, "times_ms": times, "boundary": "image to mask", "warmup": 12, "steady": True,
    }  # fmt: skip
    paced = series | {"boundary": "paced", "warnings": ["unsteady"], "fps": 30.0, "late": 0}
    measured = {"settings": {"batch": 1, "percentiles": [50, 90]}, "boundaries": {"paced": paced}, "during": during}
    key = {
        "onnx": _SUM,
        "backend": "tensorrt 10.3.0",
        "gpu": {"cc": "8.7", "integrated": True},
        "settings": {"dla": None},
    }
    judged = {"miou": 0.5, "iou_per_class": {"road": 0.5, "sky": None}}
    return {
        "schema": 3, "recipe": "small", "target": "board", "backend": "tensorrt 10.3.0",
        "ran_on": {"device": "GPU", "dla": None, "threads": 0}, "precision_asked": "f32", "precision_found": "f32",
        "dense_precision_found": "f32", "engines": {"dense": {"key": key, "level": 3}, "pruned": {}},
        "graphs": {"dense": _SUM, "pruned": _SUM[::-1]}, "bundle": _SUM,
        "device": {"machine": "aarch64", "board": "a board", "cpu": "unknown", "cores": 6, "load_1min": 0.4, "memory_mb": {"total": 7620, "free": 5000, "swap": 0}},
        "during": during | {"disturbed": 1, "busy": 0}, "task": "segmentation", "images": 2, "image_sums": [_SUM, _SUM[::-1]],
        "pytorch": judged, "engine": judged, "pixel_agreement": 0.99, "dense_latency": series, "latency": series,
        "speedup": {"median": 1.5, "ci95": [1.4, 1.6]}, "boundaries": {"pruned": measured, "dense": measured},
        "layers": {"dense": [["conv", "Convolution", 0.5]], "pruned": [["fused", "CaskConv", 0.25, ["conv", "relu"]]]},
        "gates": [{"name": "miou_drop", "limit": 0.5, "value": 0.0, "passed": True}], "not_judged": ["boundary_drop"],
    } | changes  # fmt: skip


def write(path: Path, told: Any, answers: np.ndarray = ANSWERS) -> Path:
    """Write a result.zip; `told` is result.json's content, or its text."""
    path.write_bytes(zipped(told, answers))
    return path


def zipped(told: Any, answers: np.ndarray = ANSWERS) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as whole:
        whole.writestr("result.json", told if isinstance(told, str) else json.dumps(told))
        with whole.open("answers.npy", "w") as array:
            np.lib.format.write_array(array, answers, allow_pickle=False)
    return held.getvalue()


def as_if_of(device: str, brought: bytes, path: Path) -> None:
    """Write the result.zip `brought` with another device as the one that it ran on."""
    with zipfile.ZipFile(io.BytesIO(brought)) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "result.json":
                told = json.loads(content)
                content = json.dumps(told | {"ran_on": told["ran_on"] | {"device": device}}).encode()
            new.writestr(name, content)
