"""Costs of a set of widths, computed from the channel graph: MACs, parameters, channels; each a sum of small terms.

MACs are counted as fvcore counts them (one multiply-add is one; norms, bilinear resizing and adaptive pooling included),
so that what is planned here is what `profile.macs` reports of the pruned network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgeprune.prune.channels import ChannelGraph

Widths = dict[str, int]
Cost = Callable[[Widths], float]


@dataclass(frozen=True)
class Term:
    """One part of a cost, and the groups whose widths it depends on."""

    groups: tuple[str, ...]
    cost: Cost


def total(terms: Sequence[Term]) -> Cost:
    """The sum of the terms as one function of the widths."""
    return lambda widths: float(sum(t.cost(widths) for t in terms))


def macs(graph: ChannelGraph) -> list[Term]:
    """MACs of the captured graph at the example's input size, a term a counted call."""

    def term(op: object) -> Term:
        outputs, inputs, scale = op.outputs, op.inputs, op.scale  # type: ignore[attr-defined]
        if inputs is None:
            return Term(tuple(outputs.parts), lambda w: scale * outputs.at(w))
        groups = {**outputs.parts, **inputs.parts}
        return Term(tuple(groups), lambda w: scale * outputs.at(w) * inputs.at(w))

    return [term(op) for op in graph.operations]


def params(graph: ChannelGraph) -> list[Term]:
    """Number of parameters, a term a tensor."""

    def term(shape: Sequence[object]) -> Term:
        fixed = math.prod(n for n in shape if isinstance(n, int))
        widths = [n for n in shape if not isinstance(n, int)]
        groups = {name: None for width in widths for name in width.parts}  # type: ignore[attr-defined]
        return Term(tuple(groups), lambda w: fixed * math.prod(x.at(w) for x in widths))  # type: ignore[attr-defined]

    return [term(shape) for shape in graph.tensors.values()]


def channels(graph: ChannelGraph) -> list[Term]:
    """Number of prunable units that stay (CAP's, NS's ratio is over these)."""
    return [Term((g.name,), lambda w, name=g.name: float(w[name])) for g in graph.groups]


def share_within(terms: Sequence[Term], widths: Widths) -> float:
    """The share of a cost that is of terms which hang on some group."""
    return total([t for t in terms if t.groups])(widths) / max(total(terms)(widths), 1e-9)


def counted(kind: str, graph: ChannelGraph, dense: ChannelGraph, macs: float) -> tuple[list[Term], float]:
    """The terms of a budget's cost for `graph`, and the whole cost of the `dense` network that it was cut from.

    What fvcore counts of the dense network (`macs`) and the channel graph does not follow (einsum) stays whatever is cut.
    """
    terms, whole = COSTS[kind](graph), total(COSTS[kind](dense))(dense.widths())
    missing = macs - whole if kind == "macs" else 0.0
    return ([*terms, Term((), lambda widths: missing)], whole + missing) if missing > 0 else (terms, whole)


COSTS: dict[str, Callable[[ChannelGraph], list[Term]]] = {"macs": macs, "params": params, "channels": channels}
