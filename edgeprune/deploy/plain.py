"""The network in the operators that runtimes run best, equal on noise to the one that was trained."""

from __future__ import annotations

import copy

import torch
from torch import nn

from edgeprune.deploy.unpool import without_indices
from edgeprune.models import logits_of
from edgeprune.prune.vanished import Constant


def plain(net: nn.Module, example: torch.Tensor) -> nn.Module:
    """Pooling without indices, and constants as one pixel that is broadcast; `net` itself where it has neither."""
    return _one_pixel(without_indices(net, example), example)


def _one_pixel(net: nn.Module, example: torch.Tensor) -> nn.Module:
    """What stands for a vanished branch is added as one number a channel, unless an operator wants the whole map."""
    if not any(isinstance(m, Constant) for m in net.modules()):
        return net
    small = copy.deepcopy(net).eval()
    noise = torch.randn(example.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = logits_of(net.eval()(noise))
        for module in small.modules():
            if not isinstance(module, Constant):
                continue
            module.spread = False
            try:
                found = logits_of(small(noise))
                module.spread = found.shape != wanted.shape or not torch.allclose(found, wanted, rtol=1e-4, atol=1e-5)
            except (RuntimeError, TypeError, ValueError):
                module.spread = True
    return small
