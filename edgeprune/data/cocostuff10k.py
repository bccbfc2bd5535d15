"""COCO-Stuff-10K, version 1.1: 171 classes (80 things, 91 stuff), 9,000 training and 1,000 test images.

Two forms are read. The archive's own: `images/NAME.jpg`, `annotations/NAME.mat` (its map S holds 0 = unlabelled and ids up to 182,
of which 11 are never used), `imageLists/{train,test}.txt`. And the one converted for mmsegmentation:
`annotations/[train2014/]NAME_labelTrainIds.png` with 0 = unlabelled and 1 to 171, images in `images/[train2014/]`. Unlabelled
pixels are ignored. Version 1.0 counts otherwise; its id 12 is refused. Caesar, Uijlings, Ferrari, CVPR 2018.
"""

from __future__ import annotations

from pathlib import Path

from edgeprune.data.dataset import Files, Size, ids_table, reduced_table
from edgeprune.data.layout import folder, home, names_in
from edgeprune.data.palettes import colors

CLASSES = [
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush", "banner", "blanket",
    "branch", "bridge", "building-other", "bush", "cabinet", "cage", "cardboard", "carpet", "ceiling-other",
    "ceiling-tile", "cloth", "clothes", "clouds", "counter", "cupboard", "curtain", "desk-stuff", "dirt", "door-stuff",
    "fence", "floor-marble", "floor-other", "floor-stone", "floor-tile", "floor-wood", "flower", "fog", "food-other",
    "fruit", "furniture-other", "grass", "gravel", "ground-other", "hill", "house", "leaves", "light", "mat", "metal",
    "mirror-stuff", "moss", "mountain", "mud", "napkin", "net", "paper", "pavement", "pillow", "plant-other",
    "plastic", "platform", "playingfield", "railing", "railroad", "river", "road", "rock", "roof", "rug", "salad",
    "sand", "sea", "shelf", "sky-other", "skyscraper", "snow", "solid-other", "stairs", "stone", "straw",
    "structural-other", "table", "tent", "textile-other", "towel", "tree", "vegetable", "wall-brick", "wall-concrete",
    "wall-other", "wall-panel", "wall-stone", "wall-tile", "wall-wood", "water-other", "waterdrops", "window-blind",
    "window-other", "wood",
]  # fmt: skip
_UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)  # COCO's ids that no object of the set has
_IDS = [i for i in range(1, 183) if i not in _UNUSED]


def open_cocostuff10k(root: Path, split: str, size: Size) -> Files:
    """The images of a list; "val" is the list `test`, which is what results are given on.

    Raises:
        DataError: no COCO-Stuff-10K here, or the list is missing or empty.
    """
    base = home(root, ("cocostuff", "coco_stuff10k"), "imageLists", "COCO-Stuff-10K")
    images, labels = folder(base / "images"), folder(base / "annotations")
    chosen = "test" if split == "val" else split
    names = names_in(base / "imageLists" / f"{chosen}.txt")
    own = (labels / f"{names[0]}.mat").is_file()
    suffix, table = (".mat", ids_table(len(_IDS), [0], {value: i for i, value in enumerate(_IDS)}))
    if not own:
        suffix, table = "_labelTrainIds.png", reduced_table(len(CLASSES))
    image_home, label_home = (
        place / f"{chosen}2014" if (place / f"{chosen}2014").is_dir() else place for place in (images, labels)
    )
    pairs = [(image_home / f"{name}.jpg", (labels if own else label_home) / f"{name}{suffix}") for name in names]
    return Files(pairs, CLASSES, colors(len(CLASSES)), size, table, cache=False)
