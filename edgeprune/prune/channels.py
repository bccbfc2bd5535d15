"""What the channel engine says about a network: units, groups, the tensors they live in, and the costs they carry.

A *unit* is the smallest set of channels that must be kept or removed together (union-find over every channel of every
parameter). A *group* is a family of units that live in the same places, so that keeping `k` of its `n` units is one
decision about one width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from edgeprune.runtime.signature import Signature


@dataclass(frozen=True)
class Member:
    """Where a group's units sit in one module: `index[u]` are the module's channels of unit `u`."""

    module: str
    kind: str  # "out" (a weight's output channels), "norm" (a norm's channels), "in" (a weight's input channels)
    index: np.ndarray  # int64, (units,) or (units, m)
    behind: str = ""  # of a norm: the norm whose maps go nowhere but through it (pointwise, norm, depthwise, this norm)


@dataclass(frozen=True)
class Group:
    """`size` units that are pruned as one width."""

    name: str
    size: int
    members: list[Member]

    @property
    def channels(self) -> int:
        """Channels of a unit, in the layer where it has the fewest."""
        return min(m.index.size // len(m.index) for m in self.members if m.kind == "out")

    @property
    def producers(self) -> list[str]:
        """Modules whose output channels the group holds, in the order of the graph."""
        return [m.module for m in self.members if m.kind == "out"]


@dataclass(frozen=True)
class Width:
    """A number of channels as a function of the groups' widths: `fixed + sum(multiplicity * width)`."""

    fixed: int
    parts: dict[str, int]

    def at(self, widths: dict[str, int]) -> int:
        return self.fixed + sum(n * widths[name] for name, n in self.parts.items())


@dataclass(frozen=True)
class Operation:
    """One counted call: MACs = `scale` * inputs * outputs (inputs is None where only the outputs count)."""

    name: str
    kind: str  # "conv", "deconv", "linear", "matmul", "norm", "resize", "pool"
    scale: int
    outputs: Width
    inputs: Width | None = None
    signature: Signature | None = None  # of convolutions
    module: str = ""  # whose weight it is


@dataclass(frozen=True)
class Move:
    """A call that computes little and moves a map: `pixels` numbers for each of its channels."""

    kind: str
    pixels: int
    channels: Width


@dataclass(frozen=True)
class ChannelGraph:
    """The result of `groups.find_groups`."""

    groups: list[Group]
    #: tensor name -> axis -> (unit number within its group or -1, group number or -1) for each position
    places: dict[str, dict[int, tuple[np.ndarray, np.ndarray]]]
    operations: list[Operation]
    tensors: dict[str, list[Width | int]]  # shapes of the parameters that ship, as widths
    moves: list[Move] = field(default_factory=list)  # what an engine runs besides convolutions
    unprunable: dict[str, str] = field(default_factory=dict)  # producing module -> why its channels are kept
    norm_behind: dict[str, str] = field(default_factory=dict)  # weighted module -> the norm that alone reads it
    biased: frozenset[str] = frozenset()  # weighted modules all of whose calls add their bias, which nothing else reads

    def widths(self) -> dict[str, int]:
        """The dense widths."""
        return {g.name: g.size for g in self.groups}

    def steps(self, step: int) -> dict[str, int]:
        """Units that make a step of so many channels: less where a unit holds several, as in convolutions with groups."""
        return {g.name: step // math.gcd(step, g.channels) for g in self.groups}


class UnionFind:
    """Disjoint sets of channel ids, some of them marked as fixed (with the reason)."""

    def __init__(self) -> None:
        self.parent: list[int] = []
        self.reason: dict[int, str] = {}

    def new(self, count: int) -> np.ndarray:
        start = len(self.parent)
        self.parent.extend(range(start, start + count))
        return np.arange(start, start + count)

    def find(self, i: int) -> int:
        root = i
        while self.parent[root] != root:
            root = self.parent[root]
        while self.parent[i] != root:
            self.parent[i], i = root, self.parent[i]
        return root

    def union(self, a: np.ndarray, b: np.ndarray) -> None:
        """Tie `a[i]` to `b[i]` (arrays are broadcast against each other)."""
        a, b = np.broadcast_arrays(a, b)
        for i, j in zip(a.ravel().tolist(), b.ravel().tolist(), strict=True):
            x, y = self.find(i), self.find(j)
            if x == y:
                continue
            x, y = min(x, y), max(x, y)
            self.parent[y] = x
            if y in self.reason:
                self.reason.setdefault(x, self.reason.pop(y))

    def fix(self, ids: np.ndarray, reason: str) -> None:
        for i in np.unique(ids).tolist():
            self.reason.setdefault(self.find(i), reason)

    def roots(self, ids: np.ndarray) -> np.ndarray:
        return np.array([self.find(i) for i in ids.ravel().tolist()], dtype=np.int64).reshape(ids.shape)
