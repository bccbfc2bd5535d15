"""A network, the order of its channels, and how it is cut to widths."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import nn

from edgeprune.prune.allocate import Scores, select
from edgeprune.prune.channels import ChannelGraph
from edgeprune.prune.compensate import Moments, compensated
from edgeprune.prune.cost import Widths
from edgeprune.prune.plan import Plan, make_plan
from edgeprune.prune.surgery import fold_constants, unread


@dataclass(frozen=True)
class Cutter:
    """What is cut, and how.

    Args:
        scores: group -> (units,), higher stays.
        moments: of what layers read, where channels that stay stand in for those that go (`compensate`); None: they do not.
    """

    net: nn.Module
    graph: ChannelGraph
    scores: Scores
    moments: dict[str, Moments] | None = None

    def to(self, device: torch.device | None) -> Cutter:
        """With a copy of the network there."""
        return replace(self, net=copy.deepcopy(self.net).to(device))

    def plan(self, widths: Widths) -> Plan:
        """The plan that keeps the best units of each group."""
        return make_plan(self.net, self.graph, select(self.scores, widths))

    def prepared(self, plan: Plan) -> nn.Module:
        """The full-width network whose channels are taken out."""
        return self.net if self.moments is None else compensated(self.net, self.graph, plan, self.moments)

    def masked(self, widths: Widths) -> nn.Module:
        """A full-width copy without the effect of what the widths leave out."""
        plan = self.plan(widths)
        return unread(self.prepared(plan), self.graph, plan)

    def small(self, plan: Plan, example: torch.Tensor) -> nn.Module:
        """The shrunk network, constants folded, where `example` is."""
        return fold_constants(self.prepared(plan), self.graph, plan, example)[0]
