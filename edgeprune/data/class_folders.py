"""Your own images with a class each: `ROOT/{train,val}/<class>/*.jpg`, ImageNet's layout; the classes are the folders' names."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from edgeprune.data.dataset import Color, Pair, Size, resized
from edgeprune.data.layout import folder, images_in
from edgeprune.data.palettes import colors
from edgeprune.data.pictures import opened_image
from edgeprune.errors import DataError


@dataclass
class Classed:
    """Image files with the class of each, resized when read."""

    files: list[tuple[Path, int]]
    classes: list[str]
    palette: list[Color]
    size: Size
    cache: bool = False
    _kept: dict[int, Pair] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        """The image's file name without its ending."""
        return self.files[index][0].stem

    def __getitem__(self, index: int) -> Pair:
        if index in self._kept:
            return self._kept[index]
        path = self.files[index][0]
        image = opened_image(path, turn=True)
        if self.size is not None:
            image = image.resize(resized(image, self.size), Image.Resampling.BILINEAR)
        pair = np.array(image, dtype=np.uint8), self.label(index)
        if self.cache and self.size is not None:
            self._kept[index] = pair
        return pair

    def label(self, index: int) -> np.ndarray:
        """The class alone."""
        return np.asarray(self.files[index][1], dtype=np.int64)


def open_class_folders(root: Path, split: str, size: Size, cache: bool = False) -> Classed:
    """The split "train" or "val"; the classes are those of `train`.

    Args:
        cache: keep what was read in memory.

    Raises:
        DataError: a folder is missing, fewer than two classes, or a class that training does not know.
    """
    folder(root)
    names = _folders(root / "train")
    if not 2 <= len(names) <= 255:
        raise DataError(f"{root / 'train'}: {len(names)} folders; 2 to 255, one a class, are wanted")
    if unknown := sorted(set(_folders(root / split)) - set(names)):
        raise DataError(f"{root / split}: class {unknown[0]} is not in {root / 'train'}")
    files = [(path, k) for k, name in enumerate(names) for path in images_in(root / split / name)]
    return Classed(files, names, colors(len(names)), size, cache)


def _folders(home: Path) -> list[str]:
    """Names in order, without hidden ones (.ipynb_checkpoints)."""
    return sorted(p.name for p in folder(home).iterdir() if p.is_dir() and not p.name.startswith("."))
