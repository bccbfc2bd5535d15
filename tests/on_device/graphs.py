"""A small graph as it ships, with the f16 one beside it."""

from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from edgeprune.deploy.export import Shipped, export
from edgeprune.deploy.precision import to_float16

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 32, 48, 3)).astype(np.uint8)


def write(home: Path, name: str = "pruned", seed: int = 0, typed: bool = True) -> Path:
    """`name.onnx`, and with `typed` also `name.f16.onnx`."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 4, 3, 1, 1)).eval()
    path = home / f"{name}.onnx"
    export(Shipped(net, (0.5,) * 3, (0.25,) * 3), (32, 48), path, 18)
    if typed:
        onnx.save(to_float16(onnx.load(path)), path.with_suffix(".f16.onnx"))
    return path
