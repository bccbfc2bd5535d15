"""The channel counts that a network's convolutions can take: what a latency table has to hold for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from edgeprune.profile.staircase import ladder
from edgeprune.runtime.signature import Signature


class Operation(Protocol):
    """A counted call of the network, as the channel engine gives it.

    Its widths have `parts` (the groups that they depend on) and `at(widths)` (the number of channels).
    """

    @property
    def name(self) -> str: ...
    @property
    def signature(self) -> Signature | None: ...
    @property
    def inputs(self) -> Any: ...
    @property
    def outputs(self) -> Any: ...


@dataclass
class Span:
    """The channel counts that one signature can take: fixed ones, and the most that a variable one reaches."""

    fixed_ins: set[int] = field(default_factory=set)
    fixed_outs: set[int] = field(default_factory=set)
    most_in: int = 0
    most_out: int = 0

    def add(self, inputs: Any, outputs: Any, dense: dict[str, int]) -> None:
        taken = 0 if inputs is None else inputs.at(dense)
        if inputs is not None and inputs.parts:
            self.most_in = max(self.most_in, taken)
        else:
            self.fixed_ins.add(taken)
        if outputs.parts:
            self.most_out = max(self.most_out, outputs.at(dense))
        else:
            self.fixed_outs.add(outputs.at(dense))

    def grid(self, step: int, groups: int = 1) -> tuple[list[int], list[int]]:
        """The rungs of inputs and outputs; outputs are multiples of a convolution's `groups`."""
        ins = self.fixed_ins | (set(ladder(self.most_in, step)) if self.most_in else set())
        outs = self.fixed_outs | {
            -(-c // groups) * groups for c in (ladder(self.most_out, step) if self.most_out else ())
        }
        return sorted(ins), sorted(outs)


def spans(operations: Iterable[Operation], dense: dict[str, int]) -> dict[Signature, Span]:
    """What each signature of a network can take; `dense` are the unpruned widths."""
    found: dict[Signature, Span] = {}
    for op in operations:
        if op.signature is not None:
            inputs = None if op.signature.depthwise else op.inputs
            found.setdefault(op.signature, Span()).add(inputs, op.outputs, dense)
    return found
