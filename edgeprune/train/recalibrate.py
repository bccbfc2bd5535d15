"""Recalibration: the batch norms' statistics anew, from training batches, no weight moved."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
from torch import nn

from edgeprune.progress import doing


@doing("recalibrating the norms")
def recalibrate(net: nn.Module, batches: Iterable[tuple[Any, ...]], count: int) -> None:
    """Running mean and variance as the plain mean over `count` batches; modes and momenta are restored."""
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    modes, momenta = {m: m.training for m in net.modules()}, [m.momentum for m in norms]
    net.eval()
    device = next(net.parameters()).device
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative mean
        norm.train()
    try:
        with torch.no_grad():
            for images, *_ in islice(batches, count):
                net(images.to(device))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes.items():
            module.training = mode
