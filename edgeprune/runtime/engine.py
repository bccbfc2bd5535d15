"""What every backend's engine can do, and what a backend module offers.

A backend module has `compile(onnx, home, ...) -> Engine`, which builds an engine and leaves its files in `home`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Engine(Protocol):
    """A compiled graph of uint8 (1, H, W, 3) images to uint8 (1, H, W) classes.

    `precision` is read back from the engine's own description of its convolutions, not what was asked for.
    """

    backend: str  # name and version
    device: str
    precision: str
    path: Path

    def predict(self, images: np.ndarray) -> np.ndarray:
        """(B, H, W, 3) uint8 to (B, H, W) uint8; images run one by one."""
        ...

    def bind(self, image: np.ndarray) -> Callable[[], Any]:
        """A call that runs one (1, H, W, 3) image from host memory to a mask in host memory, for timing."""
        ...


def one_by_one(call: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> np.ndarray:
    """Run a batch-1 engine over (B, H, W, 3) images."""
    return np.concatenate([call(np.ascontiguousarray(images[i : i + 1])) for i in range(len(images))])
