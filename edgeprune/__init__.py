"""From a trained segmentation network and a device to a pruned, compiled and verified engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune import telemetry

if TYPE_CHECKING:
    from torch import nn

telemetry.turn_off()  # before any library is imported that would report

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(folder: str | Path, factory: str | None = None, into: nn.Module | None = None) -> nn.Module:
    """The pruned network of a run's folder, in evaluation mode, bit for bit as it was saved.

    >>> net = edgeprune.load("runs/quickstart@cpu")
    >>> net = edgeprune.load("runs/mine@cpu/prune", into=MyNet())  # before any fine-tuning; to train in a loop of your own

    Args:
        factory: the recipe's `model.factory`, where the network is your own: code that a folder names is run only if you name it, too.
        into: the dense network, made by you; it is left as it is, and its narrower copy comes back. Nothing is imported by name.

    Raises:
        EdgepruneError: the folder holds no whole pruned network, or names another factory.
    """
    from edgeprune.prune.artefact import load_pruned  # torch takes seconds to import; `edgeprune recipes` needs none

    return load_pruned(folder, factory, into)
