"""Times by layer, joined to the ONNX graph: a fused engine's layers are given the names of the convolutions in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeprune.runtime.engine import Layer

# layers that only prepare what another one computes on; Myelin's generated kernels ("kgen") name the convolution that they feed
_ASIDE = {"kgen", "signal", "wait", "reformat", "noop", "constant", "shape", "shuffle", "cast"}


def joined(rows: Sequence[Sequence[Any]], onnx: Path) -> list[Layer]:
    """Layers under the names of the graph's convolutions, in the order that they ran.

    A convolution has the time of all kernels that compute it; where two share one kernel, the layer keeps a name of its own
    and counts as a convolution that nobody can tell apart.

    Args:
        rows: [name, kind, ms] where names are the graph's already, or [name, kind, ms, nodes that went into the layer].
    """
    if not any(len(row) > 3 for row in rows):
        return [Layer(*row) for row in rows]
    held = _held(rows, _convolutions(onnx))
    found: dict[str, Layer] = {}
    for number, (name, kind, ms, *_) in enumerate(rows):
        own = held[number]
        if len(own) == 1:
            before = found.pop(own[0], None)  # its kernels follow each other: the last one's place is good for all
            found[own[0]] = Layer(own[0], "Convolution", ms + (before.ms if before else 0.0))
            continue
        called = re.search(r"conv(?!ert)|correlation", kind, re.IGNORECASE)
        text = f"one kernel of {', '.join(own)}" if own else name
        found[f"{number} {name}"] = Layer(text, "Convolution" if own or called else kind, ms)
    return list(found.values())


def _held(rows: Sequence[Sequence[Any]], convolutions: set[str]) -> list[list[str]]:
    """The convolutions that each row computes: those that only prepare one count where nothing else does."""
    all_of = [[n for n in row[3] if n in convolutions] if len(row) > 3 else [] for row in rows]
    aside = [row[1].lower() in _ASIDE for row in rows]
    computed = {n for names, a in zip(all_of, aside, strict=True) if not a for n in names}
    return [[n for n in names if not a or n not in computed] for names, a in zip(all_of, aside, strict=True)]


def _convolutions(onnx: Path) -> set[str]:
    import onnx as onnx_format

    graph = onnx_format.load(str(onnx), load_external_data=False).graph
    return {n.name for n in graph.node if n.op_type in ("Conv", "ConvTranspose")}
