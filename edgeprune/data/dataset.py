"""What a data set is, and the kind that reads image and label files. Faults name the file."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

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
        return self._ids_of(path, _opened_label(path))

    def _read(self, image_path: Path, label_path: Path) -> Pair:
        image, raw = upright(image_path, opened(image_path, "image")), _opened_label(label_path)
        if image.size != raw.size:
            raise DataError(
                f"{label_path}: label is {raw.height}x{raw.width}, its image {image.height}x{image.width} (height x width)"
            )
        rgb, label = in_colour(image_path, image), self._ids_of(label_path, raw)
        if self.size is not None:
            rgb = rgb.resize(resized(rgb, self.size), Image.Resampling.BILINEAR)
        return np.array(rgb, dtype=np.uint8), label

    def _ids_of(self, path: Path, raw: Image.Image) -> np.ndarray:
        small = raw if self.size is None else raw.resize(resized(raw, self.size), Image.Resampling.NEAREST)
        values = np.asarray(small, dtype=np.uint8)
        label = self.ids[values]
        if (label == UNKNOWN).any():
            odd = sorted({int(v) for v in np.unique(values[label == UNKNOWN])})
            classes = np.flatnonzero((self.ids != IGNORE) & (self.ids != UNKNOWN))
            raise DataError(
                f"{path}: label holds id {', '.join(map(str, odd[:5]))}; valid are {_ranges(classes)} "
                f"and {_ranges(np.flatnonzero(self.ids == IGNORE))} (ignored)"
            )
        return label


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


def in_colour(path: Path, image: Image.Image) -> Image.Image:
    """The image in RGB.

    Raises:
        DataError: it has more than 8 bits a channel, which Pillow would cut off at white.
    """
    if image.mode.startswith(("I", "F")):
        raise DataError(f"{path}: image has mode {image.mode}; 8 bits a channel are wanted")
    return image.convert("RGB")


def upright(path: Path, image: Image.Image) -> Image.Image:
    """The image, if its pixels lie as they are shown: who drew its labels on a rotated view has other places in mind.

    Raises:
        DataError: its EXIF says that it is to be turned or mirrored.
    """
    turned = image.getexif().get(0x0112)  # Pillow tells of EXIF that is not whole as if there were none
    if turned in range(2, 9):
        raise DataError(
            f"{path}: image is stored turned (EXIF orientation {turned}); write it, and its labels, upright (mogrify -auto-orient)"
        )
    return image


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


def _opened_label(path: Path) -> Image.Image:
    raw = _opened_mat(path) if path.suffix == ".mat" else opened(path, "label")
    if raw.mode not in ("P", "L", "1"):
        told = " (colours: turn them into ids first)" if raw.mode.startswith("RGB") else ""
        raise DataError(f"{path}: label has mode {raw.mode}{told}; one byte a pixel (class ids, mode L or P) is wanted")
    return raw


def _opened_mat(path: Path) -> Image.Image:
    """COCO-Stuff's label map `S` out of a MATLAB file."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        values = np.asarray(loadmat(path, variable_names=["S"])["S"])
    except FileNotFoundError as error:
        raise DataError(f"{path}: label is missing") from error
    except KeyError as error:
        raise DataError(f"{path}: label holds no map S") from error
    except (MatReadError, NotImplementedError, OSError, ValueError, TypeError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: label cannot be read ({error})") from error
    if values.ndim != 2 or not np.issubdtype(values.dtype, np.integer) or values.min() < 0 or values.max() > 255:
        raise DataError(f"{path}: label's S is {values.dtype} of shape {values.shape}; ids of 0 to 255 are wanted")
    return Image.fromarray(values.astype(np.uint8))


def _ranges(values: np.ndarray) -> str:
    """Such as "0 to 10, 12"; of no values "none"."""
    runs = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1) if len(values) else []
    return ", ".join(f"{r[0]} to {r[-1]}" if len(r) > 1 else f"{r[0]}" for r in runs) or "none"
