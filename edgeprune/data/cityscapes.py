"""Cityscapes: leftImg8bit + gtFine, 19 train ids (Cordts et al., CVPR 2016). Reads `labelIds` or `labelTrainIds`."""

from __future__ import annotations

from pathlib import Path

from edgeprune.data.dataset import Color, Files, Size, ids_table
from edgeprune.data.layout import folder, images_in, paired
from edgeprune.errors import DataError

CLASSES = [
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
]  # fmt: skip
PALETTE: list[Color] = [
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
    (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142),
    (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
]  # fmt: skip
_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]  # of the 34 label ids, by train id


def open_cityscapes(root: Path, split: str, size: Size) -> Files:
    """The split "train" or "val", ids outside the 19 ignored.

    Raises:
        DataError: no leftImg8bit or gtFine, or an image without its label.
    """
    folder(root)
    images, labels = root / "leftImg8bit" / split, root / "gtFine" / split
    for path in (images, labels):
        if not path.is_dir():
            raise DataError(f"{root}: no Cityscapes here; {path.relative_to(root)} is missing")
    found = images_in(images, "*_leftImg8bit.png", recursive=True)
    if not found:
        raise DataError(f"{images}: no *_leftImg8bit.png in its city folders")
    first = found[0].name.replace("_leftImg8bit", "_gtFine_labelTrainIds")
    kind = "labelTrainIds" if (labels / found[0].parent.name / first).is_file() else "labelIds"

    def label_of(image: Path) -> Path:
        return labels / image.parent.name / image.name.replace("_leftImg8bit", f"_gtFine_{kind}")

    if kind == "labelTrainIds":
        table = ids_table(len(CLASSES), [255])
    else:
        ignored = [i for i in range(34) if i not in _IDS]
        table = ids_table(len(CLASSES), [*ignored, 255], {value: i for i, value in enumerate(_IDS)})
    return Files(paired(found, label_of), CLASSES, PALETTE, size, table, cache=False)
