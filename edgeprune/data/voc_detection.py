"""PASCAL VOC detection, 2007 and 2012: 20 classes, boxes in `Annotations/*.xml` (Everingham et al., IJCV 2010 and 2015).

`VOCdevkit/VOC{2007,2012}/{JPEGImages,Annotations,ImageSets/Main/{train,val,trainval,test}.txt}`. A list is named "2007/trainval"; the
usual training set is `train_list: [2007/trainval, 2012/trainval]` (16,551 images), judged on 2007/test (4,952). "Difficult"
objects are neither learnt nor judged. VOC counts pixels from 1 and includes the last; here a box ends behind it.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from edgeprune.data.boxes import Box, Boxed, are_places
from edgeprune.data.dataset import Size
from edgeprune.data.layout import folder, names_in
from edgeprune.data.palettes import voc_colors
from edgeprune.data.voc2012 import CLASSES as WITH_BACKGROUND
from edgeprune.errors import DataError

CLASSES = WITH_BACKGROUND[1:]


def open_voc_detection(
    root: Path,
    split: str,
    size: Size,
    train_list: list[str] | str = "2007/trainval",
    val_list: list[str] | str = "2007/test",
) -> Boxed:
    """The images of one list or several: `train_list` and `val_list` are what "train" and "val" mean; other splits name their list.

    Args:
        root: VOCdevkit, or the folder above it.

    Raises:
        DataError: a year, a list or an annotation is missing or wrong.
    """
    folder(root)
    base = root / "VOCdevkit" if (root / "VOCdevkit").is_dir() else root
    chosen = {"train": train_list, "val": val_list}.get(split, split)
    entries = []
    for part in [chosen] if isinstance(chosen, str) else chosen:
        year, _, name = part.partition("/")
        if not name:
            raise DataError(f"voc_detection: {part!r} is no list; write year/list, such as 2007/trainval")
        home = folder(base / f"VOC{year}")
        for line in names_in(home / "ImageSets" / "Main" / f"{name}.txt"):
            image = line.split()[0]
            source = home / "Annotations" / f"{image}.xml"
            entries.append((home / "JPEGImages" / f"{image}.jpg", source, boxes_of(source)))
    return Boxed(entries, list(CLASSES), voc_colors(len(WITH_BACKGROUND))[1:], size)


def boxes_of(path: Path) -> list[Box]:
    """The boxes of an annotation.

    Raises:
        DataError: missing, not whole, or an unknown class.
    """
    try:
        objects = ElementTree.parse(path).getroot().findall("object")
    except FileNotFoundError as error:
        raise DataError(f"{path}: annotation is missing") from error
    except (ElementTree.ParseError, OSError, ValueError) as error:
        raise DataError(f"{path}: annotation cannot be read ({error})") from error
    found: list[Box] = []
    for thing in objects:
        name = (thing.findtext("name") or "").strip()
        if name not in CLASSES:
            raise DataError(f"{path}: class {name!r} is none of VOC's 20")
        try:
            x0, y0, x1, y1 = (float(thing.findtext(f"bndbox/{key}") or "") for key in ("xmin", "ymin", "xmax", "ymax"))
        except ValueError as error:
            raise DataError(f"{path}: a {name} has no whole bndbox") from error
        if not are_places([x0, y0, x1, y1]):
            raise DataError(f"{path}: a {name}'s box is no place in an image ({x0:g}, {y0:g}, {x1:g}, {y1:g})")
        if x1 < x0 or y1 < y0:
            raise DataError(f"{path}: a {name}'s box ends before it begins ({x0:g}, {y0:g}, {x1:g}, {y1:g})")
        difficult = (thing.findtext("difficult") or "0").strip() == "1"
        found.append((x0 - 1, y0 - 1, x1, y1, CLASSES.index(name), difficult))
    return found
