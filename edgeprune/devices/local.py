"""This machine: can it build and measure for a target, and what is it?"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from edgeprune.runtime import BACKENDS, openvino
from edgeprune.target import Target


def why_not(target: Target) -> str | None:
    """Why engines for this target cannot be built and measured here; None where they can."""
    if target.host:
        return f"{target.host} is another machine"
    if target.backend not in BACKENDS:
        return f"{target.backend} engines are built on the device itself"
    if target.backend == "openvino":
        found = openvino.available()
        if not any(name.split(".")[0] == target.device for name in found):
            return f"OpenVINO finds no {target.device} here (it finds {', '.join(found)})"
    return None


def fingerprint() -> dict[str, Any]:
    """What a measurement on this machine must say about it."""
    return {
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "load_1min": round(os.getloadavg()[0], 2),
    }


def _cpu_name() -> str:
    text = _read("/proc/cpuinfo") or ""
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None
