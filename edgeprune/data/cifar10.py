"""CIFAR-10 (Krizhevsky, 2009): 50,000 training and 10,000 test images of 32x32 in ten classes, in the *binary* version.

`cifar-10-batches-bin/{data_batch_1..5,test_batch}.bin`: records of 3,073 bytes, the class and then the red, green and blue plane,
row by row; `batches.meta.txt` holds the names. The Python version is refused: its files are pickles, which run code when they
are read. "val" is the test batch, as papers have it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from edgeprune.data.dataset import Color, Pair, Size
from edgeprune.data.layout import folder
from edgeprune.data.palettes import colors
from edgeprune.errors import DataError

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
FILES = {"train": [f"data_batch_{n}.bin" for n in range(1, 6)], "val": ["test_batch.bin"]}
_SIDE, _RECORD = 32, 1 + 3 * 32 * 32


@dataclass
class Pixels:
    """Images held in memory, with a class each; resized where `size` is not theirs.

    Args:
        images: (N, H, W, 3) uint8.
        labels: (N,) uint8.
    """

    images: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    classes: list[str]
    palette: list[Color]
    size: Size
    split: str

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Pair:
        if not 0 <= index < len(self):
            raise IndexError(index)
        image, size = self.images[index], self.size
        if size is not None:
            h, w = (size, size) if isinstance(size, int) else size
            if (h, w) != image.shape[:2]:
                image = np.asarray(Image.fromarray(image).resize((w, h), Image.Resampling.BILINEAR))
        return image, self.labels[index]

    def label(self, index: int) -> np.ndarray:
        """The class alone."""
        return self.labels[index]

    def name(self, index: int) -> str:
        """Such as val_00003."""
        return f"{self.split}_{index:05d}"


def open_cifar10(root: Path, split: str, size: Size) -> Pixels:
    """The split "train" or "val".

    Raises:
        DataError: no CIFAR-10 here, only its Python version, or a file is not whole.
    """
    folder(root)
    if split not in FILES:
        raise DataError(f"cifar10: no split {split}; there are {', '.join(FILES)}")
    base = next((p for p in (root / "cifar-10-batches-bin", root) if (p / FILES["val"][0]).is_file()), None)
    if base is None:
        python = any((p / "test_batch").is_file() for p in (root / "cifar-10-batches-py", root))
        told = "only the Python version, whose pickles run code; get the binary one" if python else "no CIFAR-10"
        raise DataError(f"{root}: {told} (cifar-10-binary.tar.gz, which unpacks to cifar-10-batches-bin)")
    records = np.concatenate([_records(base / name) for name in FILES[split]])
    images = records[:, 1:].reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
    return Pixels(np.ascontiguousarray(images), records[:, 0].copy(), list(CLASSES), colors(10), size, split)


def _records(path: Path) -> np.ndarray:
    """(N, 3073) uint8."""
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if not len(content) or len(content) % _RECORD:
        raise DataError(f"{path}: {len(content)} bytes are no whole number of records of {_RECORD} bytes")
    records = content.reshape(-1, _RECORD)
    if records[:, 0].max() >= len(CLASSES):
        at = int(np.argmax(records[:, 0] >= len(CLASSES)))
        raise DataError(f"{path}: record {at} has class {records[at, 0]}; valid are 0 to {len(CLASSES) - 1}")
    return records
