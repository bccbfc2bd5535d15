"""PASCAL VOC 2012 segmentation: 21 classes with the background, palette PNGs, 255 = void (the objects' outlines).

`JPEGImages`, `SegmentationClass` and `ImageSets/Segmentation/{train,val,trainval}.txt` (1,464, 1,449 and 2,913 images) in
VOCdevkit/VOC2012 (Everingham et al., IJCV 2015). SBD (Hariharan et al., ICCV 2011) adds labels: with `SegmentationClassAug` and the list
`trainaug.txt` (10,582 images), as the usual conversions lay them there, `train_list: trainaug` trains on them.
"""

from __future__ import annotations

from pathlib import Path

from edgeprune.data.dataset import Color, Files, Size, ids_table
from edgeprune.data.layout import home, names_in, paired
from edgeprune.data.palettes import voc_colors

CLASSES = [
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
]  # fmt: skip
PALETTE: list[Color] = voc_colors(len(CLASSES))


def open_voc2012(root: Path, split: str, size: Size, train_list: str = "train", val_list: str = "val") -> Files:
    """The images of a list: `train_list` and `val_list` are what "train" and "val" mean; other splits name their list.

    An image's label is VOC's own where there is one, and SBD's else: VOC's know the outlines (our reading; mmsegmentation
    does the same, DeepLab's lists take SBD's for all).

    Raises:
        DataError: no VOC2012 here, or the list is missing or empty.
    """
    base = home(root, ("VOCdevkit/VOC2012", "VOC2012"), "JPEGImages", "PASCAL VOC 2012")
    chosen = {"train": train_list, "val": val_list}.get(split, split)
    names = [_name(line) for line in names_in(base / "ImageSets" / "Segmentation" / f"{chosen}.txt")]

    def label_of(image: Path) -> Path:
        own, more = (base / kind / f"{image.stem}.png" for kind in ("SegmentationClass", "SegmentationClassAug"))
        return more if not own.is_file() and more.is_file() else own

    pairs = paired([base / "JPEGImages" / f"{name}.jpg" for name in names], label_of)
    return Files(pairs, CLASSES, PALETTE, size, ids_table(len(CLASSES), [255]), cache=False)


def _name(line: str) -> str:
    """The image's name, also out of DeepLab's lines "/JPEGImages/NAME.jpg /SegmentationClassAug/NAME.png"."""
    return Path(line.split(".jpg")[0]).name if line.startswith("/") else line
