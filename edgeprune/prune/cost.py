"""Costs of a set of widths, computed from the channel graph: MACs, parameters, channels.

MACs are counted as fvcore counts them (one multiply-add is one; norms, bilinear resizing and adaptive pooling included),
so that what is planned here is what `profile.macs` reports of the pruned network.
"""

from __future__ import annotations

from collections.abc import Callable

from edgeprune.prune.channels import ChannelGraph

Widths = dict[str, int]
Cost = Callable[[Widths], float]


def macs(graph: ChannelGraph) -> Cost:
    """MACs of the captured graph at the example's input size."""

    def cost(widths: Widths) -> float:
        total = 0
        for op in graph.operations:
            inputs = 1 if op.inputs is None else op.inputs.at(widths)
            total += op.scale * op.outputs.at(widths) * inputs
        return float(total)

    return cost


def params(graph: ChannelGraph) -> Cost:
    """Number of parameters."""

    def cost(widths: Widths) -> float:
        total = 0
        for shape in graph.tensors.values():
            count = 1
            for axis in shape:
                count *= axis if isinstance(axis, int) else axis.at(widths)
            total += count
        return float(total)

    return cost


def channels(graph: ChannelGraph) -> Cost:
    """Number of prunable units that stay (CAP's, NS's ratio is over these)."""
    return lambda widths: float(sum(widths.values()))


COSTS: dict[str, Callable[[ChannelGraph], Cost]] = {"macs": macs, "params": params, "channels": channels}
