"""Blocks that may vanish whole: sets of groups without which a sum merely has one live summand less.

A block is closed: what fed only its groups is dead and what read only them is constant, and all of that belongs to it. It
ends in convolutions that write into a group which others feed as well (the last of a residual branch); those become the
constant that they would have emitted (`surgery`). The network stays connected: every group that is left is fed from the
input. Found on the channel graph alone; the surgery proof has the last word.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from edgeprune.prune.channels import ChannelGraph, Operation

_WEIGHTED = ("conv", "linear", "deconv")

Blocks = dict[str, frozenset[str]]  # name -> groups that vanish together


class Wiring:
    """Who writes and who reads each group."""

    def __init__(self, graph: ChannelGraph) -> None:
        self.names = [g.name for g in graph.groups]
        self.writers: dict[str, set[str]] = {n: set() for n in self.names}  # without depthwise ones: they only pass on
        self.readers: dict[str, set[str]] = {n: set() for n in self.names}
        self.writes: dict[str, set[str]] = {}
        self.reads: dict[str, set[str]] = {}
        self.calls: dict[str, Operation] = {op.module: op for op in graph.operations if op.kind in _WEIGHTED}
        for g in graph.groups:
            for m in g.members:
                if m.kind == "out" and not self._depthwise(m.module):
                    self.writers[g.name].add(m.module)
                    self.writes.setdefault(m.module, set()).add(g.name)
                elif m.kind == "in":
                    self.readers[g.name].add(m.module)
                    self.reads.setdefault(m.module, set()).add(g.name)
        whole = dict.fromkeys(self.names, True)
        for axes in graph.places.values():
            for _, owners in axes.values():
                found = np.unique(owners).tolist()
                if len(found) > 1:
                    whole.update({self.names[n]: False for n in found if n >= 0})
        self.placed = {n for m in graph.moves if "unpool" in m.kind for n in m.channels.parts}  # tied, but not summed
        self.inner = {n for n in self.names if whole[n] and all(map(self._plain, self.writers[n] | self.readers[n]))}

    def _depthwise(self, module: str) -> bool:
        return module in self.calls and self.calls[module].inputs is None

    def _plain(self, module: str) -> bool:
        """A convolution without groups or a linear layer, in the part that ships."""
        call = self.calls.get(module)
        return call is not None and call.kind != "deconv" and (call.signature is None or call.signature.groups <= 1)

    def closure(self, start: str) -> frozenset[str]:
        """The smallest block around a group; empty where none is closed."""
        gone = {start}
        while True:
            if not gone <= self.inner:
                return frozenset()
            readers = {r for g in gone for r in self.readers[g]}
            written = [self.writes.get(r, set()) for r in readers]
            if any(not w or (w - gone) & self.placed for w in written):  # what it writes has to stay as it is
                return frozenset()
            constant = {h for r in readers for h in self.writes[r] if self.writers[h] <= readers}
            feeding = {f for g in gone for w in self.writers[g] for f in self.reads.get(w, ())}
            dead = {f for f in feeding & self.inner if all(self.writes.get(r, {""}) <= gone for r in self.readers[f])}
            if constant | dead <= gone:
                return frozenset(gone)
            gone |= constant | dead

    def connected(self, gone: Iterable[str]) -> bool:
        """Every group that is left is fed from the input, though nothing passes through those that are gone."""
        gone = set(gone)
        live: set[str] = set()
        while True:
            fed = {
                g
                for g in set(self.names) - gone - live
                if any(
                    self.reads.get(w, set()) <= live for w in self.writers[g]
                )  # of the image and kept channels: nothing
            }
            if not fed:
                return live == set(self.names) - gone
            live |= fed


def find_blocks(graph: ChannelGraph) -> Blocks:
    """The blocks of a network; each may vanish alone, several where `may_vanish` says so."""
    wiring, found = Wiring(graph), dict[str, frozenset[str]]()
    for name in wiring.names:
        block = wiring.closure(name)
        if block and block not in found.values() and wiring.connected(block):
            found[name] = block
    return found


def may_vanish(graph: ChannelGraph, gone: Iterable[str]) -> bool:
    """True if these groups are a union of blocks and the network without them stays connected."""
    wiring, gone = Wiring(graph), set(gone)
    return all(wiring.closure(g) and wiring.closure(g) <= gone for g in gone) and wiring.connected(gone)
