"""Images on disk with boxes: what data sets of detection share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from edgeprune.data.dataset import Color, Pair, Size, resized
from edgeprune.data.pictures import opened_image
from edgeprune.errors import DataError

# x0, y0, x1, y1 in the image's own pixels, class, whether it is judged (`labels`: 0, DIFFICULT or CROWD)
Box = tuple[float, float, float, float, int, int]


def are_places(numbers: list[float]) -> bool:
    """Can these be coordinates in an image? Not NaN, not infinity, and nothing that float32 turns into it."""
    return all(abs(number) < 1e9 for number in numbers)


@dataclass
class Boxed:
    """Images with their boxes, resized together.

    Args:
        entries: (image file, where its boxes were read, its boxes) each; read from the disk when asked for.
        size: (H, W); a number: that short side, the shape kept; None: as it is.
    """

    entries: list[tuple[Path, Path, list[Box]]]
    classes: list[str]
    palette: list[Color]
    size: Size

    def __len__(self) -> int:
        return len(self.entries)

    def name(self, index: int) -> str:
        """The image's file name without its folder and ending."""
        return self.entries[index][0].stem

    def __getitem__(self, index: int) -> Pair:
        """(H, W, 3) uint8 and (M, 6) float32, see `labels`.

        Raises:
            DataError: the image is missing or unreadable, or a box lies outside of it.
        """
        path, source, boxes = self.entries[index]
        image = opened_image(path)
        label = np.array(boxes, dtype=np.float32).reshape(-1, 6)
        right, low = label[:, 2:4].max(axis=0, initial=0)
        if right > image.width + 1 or low > image.height + 1:
            raise DataError(
                f"{source}: a box ends at ({right:g}, {low:g}); {path.name} is {image.width} wide, {image.height} high"
            )
        if self.size is not None:
            w, h = resized(image, self.size)
            label[:, 0:4:2] *= w / image.width
            label[:, 1:4:2] *= h / image.height
            image = image.resize((w, h), Image.Resampling.BILINEAR)
        label[:, 0:4:2] = label[:, 0:4:2].clip(0, image.width)
        label[:, 1:4:2] = label[:, 1:4:2].clip(0, image.height)
        return np.array(image, dtype=np.uint8), label

    def missing(self) -> dict[int, str]:
        """What is wrong with the images that are not there, by their number."""
        return {n: f"{path}: image is missing" for n, (path, _, _) in enumerate(self.entries) if not path.is_file()}

    def label(self, index: int) -> np.ndarray:
        """The boxes alone, at the size that the image is given at."""
        return self[index][1]
