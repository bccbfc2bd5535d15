"""Graphs of small dense and pruned networks for the backends' tests."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgeprune import models
from edgeprune.data.transforms import IMAGENET
from edgeprune.deploy.export import Shipped, export
from edgeprune.deploy.plain import plain
from edgeprune.prune.groups import find_groups
from edgeprune.prune.plan import make_plan
from edgeprune.prune.surgery import fold_constants

SIZE = (32, 64)
IMAGES = np.random.default_rng(0).integers(0, 255, (3, *SIZE, 3)).astype(np.uint8)


def network(name: str = "streetnet", **args) -> nn.Module:
    """A network with unlike classes."""
    torch.manual_seed(0)
    net = models.build(name, args or {"width": 8, "blocks": 1}, None, 5)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.3)
            m.running_var.uniform_(0.5, 2)
    return net.eval()


def halved(net: nn.Module) -> nn.Module:
    """The network with every second channel of every group."""
    example = torch.zeros(1, 3, *SIZE)
    graph = find_groups(net, example)
    keep = {g: np.arange(0, width, 2) for g, width in graph.widths().items()}
    return fold_constants(net, graph, make_plan(net, graph, keep), example)[0]


def onnx_of(net: nn.Module, path: Path) -> Path:
    """The graph that ships."""
    export(Shipped(plain(net, torch.zeros(1, 3, *SIZE)), *IMAGENET), SIZE, path, 20)
    return path
