"""Where a backend runs: this process, an agent here or over ssh, or (by a bundle) a board that is not connected."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgeprune.devices.agent import Agent
from edgeprune.devices.here import Here
from edgeprune.devices.local import Local
from edgeprune.devices.pairs import Pairs
from edgeprune.devices.replay import Replay
from edgeprune.devices.ssh import Ssh
from edgeprune.runtime.engine import Engine, Layer
from edgeprune.target import Target

__all__ = ["AGENTS", "Agent", "Device", "Here", "Replay", "Ssh", "device_of"]

AGENTS = {"tensorrt"}  # backends that only the device's own scripts know: their agent runs on this machine, too


class Device(Protocol):
    """A machine that builds and measures engines for a target."""

    target: Target

    def why_not(self) -> str | None: ...
    def identity(self) -> dict[str, Any]: ...
    def fingerprint(self) -> dict[str, Any]: ...
    def version(self) -> str: ...
    def build(self, onnx: Any, home: Path, precision: str, calibration: Iterable[np.ndarray] = ()) -> Engine: ...
    def ahead(self, onnx: Path, home: Path, precision: str) -> Any: ...
    def layers(self, model: Path, precision: str, runs: int = 8) -> list[Layer]: ...
    def pairs(self, a: Any, b: Any, image: np.ndarray, runs: int) -> Pairs: ...
    def boundaries(self, engine: Any, image: np.ndarray) -> dict[str, Any] | None: ...


def device_of(target: Target) -> Device:
    """The target's machine."""
    if target.host:
        return Agent(target, Ssh(target))
    return Agent(target, Here(target)) if target.backend in AGENTS else Local(target)
