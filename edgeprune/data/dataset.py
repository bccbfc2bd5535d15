"""What a data set is, and the kind that reads image and label files. Faults name the file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from edgeprune.data.pictures import opened_image, opened_label
from edgeprune.errors import DataError

IGNORE = 255
UNKNOWN = 254
Pair = tuple[np.ndarray, np.ndarray]
Color = tuple[int, int, int]
Size = tuple[int, int] | int | None  # (H, W) to resize to; or the short side, the shape kept; or None, as it is


class Dataset(Protocol):
    """Images (H, W, 3) uint8 RGB with labels: (H, W) uint8, 0 to K - 1, or 255 = not judged (other tasks: `labels`)."""

    classes: list[str]
    palette: list[Color]

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Pair: ...
    def label(self, index: int) -> np.ndarray: ...
    def name(self, index: int) -> str: ...


@dataclass
class Files:
    """Pairs of image and label files, resized (images bilinear, labels nearest).

    Args:
        size: to what: (H, W); a number: that short side, the shape kept; None: each pair as it lies on the disk.
        ids: what each value of a label file means: (256,) uint8, class id, 255 = ignored, 254 = not allowed.
        cache: keep what was read in memory (a few hundred small images); never without `size`.
    """

    pairs: list[tuple[Path, Path]]
    classes: list[str]
    palette: list[Color]
    size: Size
    ids: np.ndarray
    cache: bool = True
    _kept: dict[int, Pair] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        """The image's file name without its ending."""
        return self.pairs[index][0].stem

    def __getitem__(self, index: int) -> Pair:
        if index not in self._kept:
            pair = self._read(*self.pairs[index])
            if not self.cache or self.size is None:
                return pair
            self._kept[index] = pair
        return self._kept[index]

    def label(self, index: int) -> np.ndarray:
        """The label alone, without reading the image."""
        if index in self._kept:
            return self._kept[index][1]
        path = self.pairs[index][1]
        return self._ids_of(path, opened_label(path))

    def _read(self, image_path: Path, label_path: Path) -> Pair:
        image, raw = opened_image(image_path), opened_label(label_path)
        if image.size != raw.size:
            raise DataError(
                f"{label_path}: label is {raw.height}x{raw.width}, its image {image.height}x{image.width} (height x width)"
            )
        label = self._ids_of(label_path, raw)
        if self.size is not None:
            image = image.resize(resized(image, self.size), Image.Resampling.BILINEAR)
        return np.array(image, dtype=np.uint8), label

    def _ids_of(self, path: Path, raw: Image.Image) -> np.ndarray:
        """(H, W) uint8 class ids at `size`; every value is looked at, also those that resizing leaves out."""
        there = np.flatnonzero(raw.histogram())
        if len(odd := there[self.ids[there] == UNKNOWN]):
            classes = np.flatnonzero((self.ids != IGNORE) & (self.ids != UNKNOWN))
            raise DataError(
                f"{path}: label holds id {', '.join(map(str, odd[:5]))}; valid are {_ranges(classes)} "
                f"and {_ranges(np.flatnonzero(self.ids == IGNORE))} (ignored)"
            )
        small = raw if self.size is None else raw.resize(resized(raw, self.size), Image.Resampling.NEAREST)
        return self.ids[np.asarray(small, dtype=np.uint8)]


def resized(image: Image.Image, size: tuple[int, int] | int) -> tuple[int, int]:
    """(width, height), as Pillow wants it."""
    if not isinstance(size, int):
        return size[1], size[0]
    share = size / min(image.size)
    return round(image.width * share), round(image.height * share)


def ids_table(classes: int, ignored: list[int], mapping: dict[int, int] | None = None) -> np.ndarray:
    """(256,) table from a label file's values to class ids."""
    table = np.full(256, UNKNOWN, dtype=np.uint8)
    for value, target in (mapping or {i: i for i in range(classes)}).items():
        table[value] = target
    table[ignored] = IGNORE
    return table


def reduced_table(classes: int) -> np.ndarray:
    """The table of sets whose label 0 is "none of them": 0 is ignored and k means class k - 1.

    255 is not allowed: it stands where somebody has reduced the labels before, and to do so twice would shift every class.
    """
    return ids_table(classes, [0], {k + 1: k for k in range(classes)})


def _ranges(values: np.ndarray) -> str:
    """Such as "0 to 10, 12"; of no values "none"."""
    runs = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1) if len(values) else []
    return ", ".join(f"{r[0]} to {r[-1]}" if len(r) > 1 else f"{r[0]}" for r in runs) or "none"
