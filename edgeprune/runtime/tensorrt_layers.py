"""What a TensorRT engine really consists of, as its inspector tells it (one line a layer), and what its convolutions run at.

The builder prints the same lines at its most talkative, so an engine that was built for a GPU that is not here is read too.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

_LINE = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<kind>\w+),(?P<rest>.*)$", re.MULTILINE)
_TENSOR = re.compile(r"Dimensions: \[(?P<shape>[\d,-]*)\].*?(?:Datatype: |Format/Datatype: )(?P<type>\w+)")
_ONNX = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_TYPES = {
    "Float": "f32",
    "FP32": "f32",
    "Half": "f16",
    "FP16": "f16",
    "BFloat16": "bf16",
    "BF16": "bf16",
    "Int8": "int8",
}
_ASIDE = {"kgen", "signal", "wait"}


class EngineLayer(NamedTuple):
    """A layer of an engine: types of its inputs and outputs and of its filters (4-dimensional constants), such as "f16".

    `onnx` are the graph's nodes that went into it.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    filters: tuple[str, ...]
    outputs: tuple[str, ...]
    onnx: tuple[str, ...]


def read(text: str) -> list[EngineLayer]:
    """The layers in the inspector's one-line format or in the builder's messages."""
    found = []
    for match in _LINE.finditer(text):
        parts = re.split(r"(Inputs|Constants|Outputs|TacticName|Metadata): ", match["rest"])
        held = dict(zip(parts[1::2], parts[2::2], strict=False))
        inputs, constants, outputs = (_tensors(held.get(key) or "") for key in ("Inputs", "Constants", "Outputs"))
        filters = tuple(kind for shape, kind in constants if shape.count(",") == 3)
        onnx = tuple(str(n) for n in _ONNX.findall(held.get("Metadata") or ""))
        ends = (tuple(kind for _, kind in tensors) for tensors in (inputs, outputs))
        found.append(EngineLayer(match["name"], match["kind"], next(ends), filters, next(ends), onnx))
    return found


def _tensors(text: str) -> list[tuple[str, str]]:
    """(shape, type) of each tensor in a list of them."""
    return [(str(m["shape"]), _TYPES.get(m["type"], str(m["type"]).lower())) for m in _TENSOR.finditer(text)]


def convolutions(layers: list[EngineLayer], nodes: set[str]) -> Counter[str]:
    """How many of the graph's convolutions (`nodes`, by name) run at which precision.

    A convolution runs at what its filter is, or what it reads where the filter is not told. Generated kernels carry the
    names of convolutions that they only prepare (a cast, a copy, a Q/DQ step): they count where no other layer does.
    """
    found: dict[str, str] = {}
    for aside in (False, True):
        for layer in layers:
            if not layer.inputs or (layer.kind in _ASIDE) != aside:
                continue
            kind = (layer.filters or layer.inputs)[0]
            found = {n: kind for n in layer.onnx if n in nodes} | found
    return Counter(found.get(name, "unknown") for name in nodes)
