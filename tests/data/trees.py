"""Tiny trees in the true layouts of the data sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from edgeprune.data.palettes import voc_colors


def picture(path: Path, size: tuple[int, int] = (6, 8), mode: str = "RGB") -> None:
    """An image of that (H, W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 120, np.uint8)).convert(mode).save(path)


def ids(path: Path, values: list[int], size: tuple[int, int] = (6, 8), palette: bool = False) -> None:
    """A label whose first row holds `values`, the rest `values[0]`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    label = np.full(size, values[0], np.uint8)
    label[0, : len(values)] = values
    if path.suffix == ".mat":
        savemat(path, {"S": label.astype(np.uint16), "names": np.array(["unlabeled"], dtype=object)})
        return
    image = Image.fromarray(label)
    if palette:
        image.putpalette(bytes(np.array(voc_colors(256), np.uint8)))
    image.save(path)


def names(path: Path, lines: list[str], end: str = "\n") -> None:
    """A list file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((end.join(lines) + end).encode())


def voc(root: Path) -> Path:
    """Two training images, one more of SBD's, one to validate on; root/VOCdevkit/VOC2012 is given."""
    base = root / "VOCdevkit" / "VOC2012"
    for name in ("2007_000001", "2007_000002", "2008_000003", "2007_000009"):
        picture(base / "JPEGImages" / f"{name}.jpg")
    for name, values in (("2007_000001", [0, 15, 255]), ("2007_000002", [0, 20]), ("2007_000009", [0, 1])):
        ids(base / "SegmentationClass" / f"{name}.png", values, palette=True)
    ids(base / "SegmentationClassAug" / "2007_000001.png", [0, 15, 15])
    ids(base / "SegmentationClassAug" / "2008_000003.png", [0, 7])
    lists = base / "ImageSets" / "Segmentation"
    names(lists / "train.txt", ["2007_000001", "2007_000002"])
    names(lists / "val.txt", ["2007_000009"])
    names(lists / "trainval.txt", ["2007_000001", "2007_000002", "2007_000009"])
    names(lists / "trainaug.txt", ["2007_000001", "2007_000002", "2008_000003"])
    return base


def ade(root: Path) -> Path:
    """One image a split; root/ADEChallengeData2016 is given."""
    base = root / "ADEChallengeData2016"
    for part, name in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        picture(base / "images" / part / f"{name}.jpg")
        ids(base / "annotations" / part / f"{name}.png", [0, 1, 150])
    return base


def cocostuff(root: Path, form: str) -> Path:
    """One image a split, as the archive has it ("mat") or converted ("png")."""
    for split in ("train", "test"):
        name, part = f"COCO_{split}2014_000000000077", f"{split}2014" if form == "png" else "."
        picture(root / "images" / part / f"{name}.jpg")
        values, suffix = ([0, 1, 182, 13], ".mat") if form == "mat" else ([0, 1, 171, 12], "_labelTrainIds.png")
        ids(root / "annotations" / part / f"{name}{suffix}", values)
        names(root / "imageLists" / f"{split}.txt", [name])
    return root


def context(root: Path) -> Path:
    """One image a split; root/VOCdevkit/VOC2010 is given."""
    base = root / "VOCdevkit" / "VOC2010"
    for split, name in (("train", "2008_000002"), ("val", "2008_000004")):
        picture(base / "JPEGImages" / f"{name}.jpg")
        ids(base / "SegmentationClassContext" / f"{name}.png", [0, 1, 59])
        names(base / "ImageSets" / "SegmentationContext" / f"{split}.txt", [name])
    return base


def cityscapes(root: Path) -> Path:
    """Two cities to train on, one to validate on, with the files of the official archives beside the labels."""
    for split, city in (("train", "aachen"), ("train", "ulm"), ("val", "lindau")):
        stem = f"{city}_000000_000019"
        picture(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png")
        home = root / "gtFine" / split / city
        ids(home / f"{stem}_gtFine_labelIds.png", [7, 0, 33, 29])
        ids(home / f"{stem}_gtFine_instanceIds.png", [7, 33])
        picture(home / f"{stem}_gtFine_color.png")
        (home / f"{stem}_gtFine_polygons.json").write_text("{}")
    return root
