"""Data sets that are drawn from a seed: what `streets`, `objects` and `street_boxes` have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from pydantic import Field

from edgeprune.data.dataset import Color, Pair, Size
from edgeprune.errors import DataError

Pictures = Annotated[int, Field(gt=0, le=1_000_000)]
Draw = Callable[[tuple[int, int], np.random.Generator, int], Pair]  # (size, rng, index) -> image, label


@dataclass
class Drawn:
    """`count` pictures; each is drawn when it is first asked for, from (seed, stream, index) alone.

    Args:
        stream: of random numbers; each split of each set has its own.
        label_of: the label of an index, where it is known without drawing.
    """

    split: str
    size: tuple[int, int]
    count: int
    seed: int
    stream: int
    draw: Draw
    classes: list[str]
    palette: list[Color]
    label_of: Callable[[int], np.ndarray] | None = None
    _kept: dict[int, Pair] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Pair:
        if not 0 <= index < self.count:
            raise IndexError(index)
        if index not in self._kept:
            self._kept[index] = self.draw(self.size, np.random.default_rng([self.seed, self.stream, index]), index)
        return self._kept[index]

    def label(self, index: int) -> np.ndarray:
        """The label alone."""
        return self[index][1] if self.label_of is None else self.label_of(index)

    def name(self, index: int) -> str:
        """Such as val_0003."""
        return f"{self.split}_{index:04d}"


def checked(name: str, split: str, size: Size, streams: dict[str, int]) -> tuple[int, int]:
    """The (H, W) to draw at.

    Raises:
        DataError: no size to draw at, or another split.
    """
    if not isinstance(size, tuple):
        raise DataError(f"data.name: {name} are drawn at data.size; they have no size of their own")
    if split not in streams:
        raise DataError(f"{name}: no split {split}; there are {' and '.join(streams)}")
    return size
