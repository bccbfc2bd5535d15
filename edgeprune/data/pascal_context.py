"""Pascal Context: VOC 2010's images with every pixel labelled, 59 classes, or 60 with the background.

Read in the usual converted form: VOCdevkit/VOC2010 with `JPEGImages`, `SegmentationClassContext/*.png` (0 = background, 1 to 59 in
the order of the 459 original labels, which is the alphabet's) and `ImageSets/SegmentationContext/{train,val}.txt` (4,998 and 5,105
images). The archive's own `.mat` files with 459 labels are not read. Mottaghi et al., CVPR 2014.
"""

from __future__ import annotations

from pathlib import Path

from edgeprune.data.dataset import Files, Size, ids_table, reduced_table
from edgeprune.data.layout import home, names_in, paired
from edgeprune.data.palettes import voc_colors

CLASSES = [
    "aeroplane", "bag", "bed", "bedclothes", "bench", "bicycle", "bird", "boat", "book", "bottle", "building",
    "bus", "cabinet", "car", "cat", "ceiling", "chair", "cloth", "computer", "cow", "cup", "curtain", "dog", "door",
    "fence", "floor", "flower", "food", "grass", "ground", "horse", "keyboard", "light", "motorbike", "mountain",
    "mouse", "person", "plate", "platform", "pottedplant", "road", "rock", "sheep", "shelves", "sidewalk", "sign",
    "sky", "snow", "sofa", "table", "track", "train", "tree", "truck", "tvmonitor", "wall", "water", "window",
    "wood",
]  # fmt: skip


def open_pascal_context(root: Path, split: str, size: Size, background: bool = False) -> Files:
    """The images of a list; with `background` it is judged as a class of its own (60), else ignored (59).

    Raises:
        DataError: no Pascal Context here, or the list is missing or empty.
    """
    base = home(root, ("VOCdevkit/VOC2010", "VOC2010"), "SegmentationClassContext", "Pascal Context")
    names = names_in(base / "ImageSets" / "SegmentationContext" / f"{split}.txt")
    labels = base / "SegmentationClassContext"
    pairs = paired([base / "JPEGImages" / f"{name}.jpg" for name in names], lambda image: labels / f"{image.stem}.png")
    classes, palette = ["background", *CLASSES], voc_colors(len(CLASSES) + 1)
    if background:
        return Files(pairs, classes, palette, size, ids_table(len(classes), [255]), cache=False)
    return Files(pairs, classes[1:], palette[1:], size, reduced_table(len(CLASSES)), cache=False)
