"""This machine: can it build and measure for a target, and what is it?"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.devices.lease import lease
from edgeprune.devices.pairs import Pairs, interleaved
from edgeprune.progress import doing
from edgeprune.runtime import AHEAD, BACKENDS, Engine
from edgeprune.runtime.engine import Layer
from edgeprune.target import Target


class Local:
    """The machine that the program runs on, as a target's device; see `devices.Device`."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def why_not(self) -> str | None:
        """Why engines for the target cannot be built and measured here; None where they can."""
        return BACKENDS[self.target.backend].why_not(self.target.device)

    def identity(self) -> dict[str, Any]:
        """What makes a table of latencies valid: the device and how it is set, not its state of the moment."""
        now = self.fingerprint()
        settings = {"device": self.target.device, "threads": self.target.threads}
        return {k: now[k] for k in ("machine", "cpu", "cores", "governor")} | settings

    def fingerprint(self) -> dict[str, Any]:
        """What a measurement must say about the machine."""
        return fingerprint()

    def version(self) -> str:
        """The backend's name and version."""
        return BACKENDS[self.target.backend].version()

    def build(self, onnx: Any, home: Path, precision: str, calibration: Iterable[np.ndarray] = ()) -> Engine:
        """Compile a graph (for inductor a program of PyTorch's); its files are left in `home`."""
        return BACKENDS[self.target.backend].compile(
            onnx, home, precision=precision, device=self.target.device, threads=self.target.threads,
            calibration=calibration,
        )  # fmt: skip

    def ahead(self, onnx: Path, home: Path, precision: str) -> Any:
        """Build an engine for a device that is elsewhere; None where the backend cannot, or is not installed."""
        if self.target.backend not in AHEAD:
            return None
        return AHEAD[self.target.backend](onnx, home, precision=precision, device=self.target.device)

    def layers(self, model: Path, precision: str, runs: int = 8) -> list[Layer]:
        """How long each operator of a graph takes in the target's own runtime."""
        t = self.target
        with lease(), doing("timing an engine's layers"):
            return BACKENDS[t.backend].layers(model, precision=precision, device=t.device, threads=t.threads, runs=runs)

    def pairs(self, a: Engine, b: Engine, image: np.ndarray, runs: int) -> Pairs:
        """Interleaved milliseconds of two engines on one (1, H, W, 3) image."""
        with lease():
            return interleaved(a.bind(image), b.bind(image), runs)

    def boundaries(self, engine: Engine, image: np.ndarray) -> dict[str, Any] | None:
        """None: on this machine, image to mask is the one boundary that is timed."""
        return None


def fingerprint() -> dict[str, Any]:
    """What a measurement on this machine must say about it."""
    return {
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "mhz": _clock(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "load_1min": round(os.getloadavg()[0], 2),
    }


def _clock() -> float | None:
    """The fastest core's clock of the moment, in MHz."""
    lines = (_read("/proc/cpuinfo") or "").splitlines()
    found = [float(line.split(":", 1)[1]) for line in lines if line.startswith("cpu MHz")]
    return max(found) if found else None


def _cpu_name() -> str:
    text = _read("/proc/cpuinfo") or ""
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None
