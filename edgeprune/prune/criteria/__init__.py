"""The pruning criteria, by the name that a recipe uses. One file a method."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from edgeprune.prune.channels import Group
from edgeprune.prune.criteria import (
    acosp,
    cap,
    chance,
    dcfp,
    fpgm,
    group_norm,
    halp,
    magnitude,
    mtp,
    obs,
    sirfp,
    slimming,
    taylor,
)
from edgeprune.prune.criteria.members import Clock


class Criterion(Protocol):
    """Watches a network and gives one float a unit; higher = keep, infinity = nothing to judge by. It never touches
    weights, budgets or devices."""

    needs_data: bool  # forward passes over calibration batches
    needs_gradient: bool  # backward passes of the fine-tuning loss, too; `after_backward` is called behind each
    training: str  # does it take part in `prune.sparsity`'s training: "no", "may", "must"
    clock: Clock  # the seconds that it took for itself
    # tasks: tuple[str, ...], only where it is not for every task

    def attach(self, net: nn.Module, groups: list[Group]) -> None: ...
    def detach(self) -> None: ...
    def scores(self) -> dict[str, np.ndarray]: ...


class Taught(Criterion, Protocol):
    """A criterion that takes part in training. It has as many of these as it needs (see `train.loop.Hooks`).

    What it lets the optimiser learn (gates) it adds to the network in `attach` and settles into the weights in `detach`.
    """

    def before_step(self, step: int, steps: int, per_epoch: float) -> None: ...
    def term(self, value: torch.Tensor, output: Any, labels: torch.Tensor) -> torch.Tensor: ...
    def after_backward(self) -> None: ...
    def state(self) -> dict[str, Any]: ...
    def load_state(self, state: dict[str, Any]) -> None: ...


CRITERIA: dict[str, Any] = {
    "sirfp": sirfp.SIRFP,
    "cap": cap.CAP,
    "mtp": mtp.MTP,
    "acosp": acosp.ACoSP,
    "dcfp": dcfp.DCFP,
    "fpgm": fpgm.FPGM,
    "fpgm_a": fpgm.FPGMA,
    "ns": slimming.NS,
    "bn_scale": slimming.BNScale,
    "taylor": taylor.Taylor,
    "halp": halp.HALP,
    "group_norm": group_norm.GroupNorm,
    "obs": obs.OBS,
    "l1": magnitude.L1,
    "l2": magnitude.L2,
    "random": chance.Random,
}
