"""Training and evaluation mode, module by module."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def modes_kept(net: nn.Module) -> Iterator[None]:
    """In here modes may change; afterwards every module is in its mode of before.

    By the network's own `train()` first, which may do more than set the mode, and then module by module: some may have been kept in
    evaluation by whoever built them.
    """
    training, modes = net.training, [(m, m.training) for m in net.modules()]
    try:
        yield
    finally:
        net.train(training)
        for module, mode in modes:
            module.training = mode


@contextlib.contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """In here `net` is in evaluation mode; afterwards every module is in its mode of before."""
    with modes_kept(net):
        net.eval()
        yield
