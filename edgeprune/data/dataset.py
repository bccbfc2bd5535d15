"""What a data set is, and the kind that reads image and label files. Faults name the file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from edgeprune.errors import DataError

IGNORE = 255
Pair = tuple[np.ndarray, np.ndarray]
Color = tuple[int, int, int]


class Dataset(Protocol):
    """Images (H, W, 3) uint8 RGB with labels (H, W) uint8: 0 to K - 1, or 255 = not judged."""

    classes: list[str]
    palette: list[Color]

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Pair: ...
    def name(self, index: int) -> str: ...


@dataclass
class Files:
    """Pairs of image and label files, resized to `size` (images bilinear, labels nearest).

    Args:
        ids: what each value of a label file means: (256,) uint8, class id, 255 = ignored, 254 = not allowed.
        cache: keep what was read in memory (a few hundred small images).
    """

    pairs: list[tuple[Path, Path]]
    classes: list[str]
    palette: list[Color]
    size: tuple[int, int]
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
            if not self.cache:
                return pair
            self._kept[index] = pair
        return self._kept[index]

    def _read(self, image_path: Path, label_path: Path) -> Pair:
        image, raw = opened(image_path, "image"), opened(label_path, "label")
        if image.size != raw.size:
            raise DataError(
                f"{label_path}: label is {raw.height}x{raw.width}, its image {image.height}x{image.width} (height x width)"
            )
        if raw.mode not in ("P", "L", "1"):
            raise DataError(
                f"{label_path}: label has mode {raw.mode}; one byte a pixel (class ids, mode L or P) is wanted"
            )
        height, width = self.size
        values = np.asarray(raw.resize((width, height), Image.Resampling.NEAREST), dtype=np.uint8)
        label = self.ids[values]
        if (label == UNKNOWN).any():
            odd = sorted({int(v) for v in np.unique(values[label == UNKNOWN])})
            raise DataError(
                f"{label_path}: label holds id {', '.join(map(str, odd[:5]))}; valid are 0 to {len(self.classes) - 1} "
                f"and {', '.join(str(i) for i in np.flatnonzero(self.ids == IGNORE)[:3])} (ignored)"
            )
        rgb = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
        return np.array(rgb, dtype=np.uint8), label


UNKNOWN = 254


def ids_table(classes: int, ignored: list[int], mapping: dict[int, int] | None = None) -> np.ndarray:
    """(256,) table from a label file's values to class ids."""
    table = np.full(256, UNKNOWN, dtype=np.uint8)
    for value, target in (mapping or {i: i for i in range(classes)}).items():
        table[value] = target
    table[ignored] = IGNORE
    return table


def opened(path: Path, what: str) -> Image.Image:
    """A whole image.

    Raises:
        DataError: missing or unreadable.
    """
    try:
        image = Image.open(path)
        image.load()
        return image
    except FileNotFoundError as error:
        raise DataError(f"{path}: {what} is missing") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: {what} cannot be read ({error})") from error


def folder(path: Path, key: str = "data.root") -> Path:
    """The folder, or one line that it is not there."""
    if not path.is_dir():
        raise DataError(f"{key}: {path} is not a folder")
    return path


def images_in(path: Path, pattern: str = "*", recursive: bool = False) -> list[Path]:
    """The image files, in order of their names."""
    found = path.rglob(pattern) if recursive else path.glob(pattern)
    endings = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
    return sorted(p for p in found if p.suffix.lower() in endings)


def paired(images: list[Path], label_of: Callable[[Path], Path | None]) -> list[tuple[Path, Path]]:
    """Each image with its label.

    Raises:
        DataError: names the first image without one.
    """
    pairs = []
    for image in images:
        label = label_of(image)
        if label is None or not label.is_file():
            raise DataError(f"{image}: its label is missing{f' ({label})' if label else ''}")
        pairs.append((image, label))
    return pairs
