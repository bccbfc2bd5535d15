"""A part of a data set, evenly spread so that a short run sees the whole of it."""

from __future__ import annotations

import numpy as np

from edgeprune.data.dataset import Dataset, Pair


class Spread:
    """`count` images spread evenly over `data`."""

    def __init__(self, data: Dataset, count: int) -> None:
        self.data, self.count = data, count
        self.classes, self.palette = data.classes, data.palette

    def _at(self, index: int) -> int:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return index * len(self.data) // self.count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Pair:
        return self.data[self._at(index)]

    def label(self, index: int) -> np.ndarray:
        """The label alone."""
        return self.data.label(self._at(index))

    def name(self, index: int) -> str:
        """The image's name."""
        return self.data.name(self._at(index))
