"""One whole-number matrix out of a MATLAB 5 file ("MAT-File Format", The MathWorks), every length checked.

SciPy's reader takes lengths and types of a damaged file as they stand and ends the process (SciPy 1.16, a tag of an unknown type).
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator

import numpy as np

_MATRIX, _COMPRESSED = 14, 15
_KINDS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 12: "i8", 13: "u8"}  # by the type in a tag
_CLASSES = {8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}  # by the class of an array
_OTHERS = {1: "cells", 2: "a structure", 4: "text", 5: "a sparse matrix", 6: "float64", 7: "float32"}
_LARGEST = 1 << 30  # bytes of an unpacked variable; a few bytes can claim any size


def read_matrix(content: bytes, name: str) -> np.ndarray:
    """The variable `name`, (rows, columns) of whole numbers.

    Raises:
        KeyError: there is no such variable.
        ValueError: no whole MATLAB 5 file, or the variable is no matrix of whole numbers.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None:
        raise ValueError("no MATLAB 5 file")
    for kind, data in _elements(content[128:], order):
        if kind == _COMPRESSED:
            unpacking = zlib.decompressobj()
            kind, data = next(_elements(unpacking.decompress(data, _LARGEST), order), (0, b""))
        if kind != _MATRIX:
            continue
        parts = list(_elements(data, order))
        if len(parts) > 2 and parts[2][1] == name.encode():
            return _matrix(parts, order)
    raise KeyError(name)


def _matrix(parts: list[tuple[int, bytes]], order: str) -> np.ndarray:
    (_, flags), (dims_kind, dims), _, *values = parts
    number = flags[0 if order == "<" else 3] if len(flags) == 8 else 0
    made_as = _CLASSES.get(number)
    stored_as = _KINDS.get(values[0][0]) if len(values) == 1 else None
    if made_as is None or stored_as is None or dims_kind != 5 or len(dims) != 8:
        raise ValueError(f"it is {_OTHERS.get(number, 'something else')}, not a matrix of whole numbers")
    shape, data = struct.unpack(f"{order}2i", dims), values[0][1]
    if min(shape) < 1 or math.prod(shape) * int(stored_as[1]) != len(data):
        raise ValueError(f"{len(data)} bytes of values for {shape[0]}x{shape[1]}")
    return np.frombuffer(data, f"{order}{stored_as}").astype(made_as).reshape(shape, order="F")


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Type and bytes of each element in a row."""
    at = 0
    while at + 8 <= len(content):
        kind, size = struct.unpack_from(f"{order}2I", content, at)
        if kind >> 16:  # a small element: type and length share a word, four bytes of data follow
            kind, size, start, after = kind & 0xFFFF, kind >> 16, at + 4, at + 8
        else:
            start = at + 8
            after = start + (size if kind == _COMPRESSED else -(-size // 8) * 8)
        if start + size > len(content) or (start == at + 4 and size > 4):
            raise ValueError("cut off, or damaged")
        yield kind, content[start : start + size]
        at = after
