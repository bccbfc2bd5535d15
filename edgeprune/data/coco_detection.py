"""COCO's layout of detection: `annotations/instances_<name>.json` and the images beside it (Lin et al., ECCV 2014).

The classes are the file's categories in the order of their ids, which have gaps (80 of 1 to 90). Crowds are neither learnt nor
judged. Images without a box are left out of training, as usual, and judged in validation.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgeprune.data.boxes import Box, Boxed, are_places
from edgeprune.data.dataset import Size
from edgeprune.data.labels import CROWD
from edgeprune.data.layout import folder
from edgeprune.data.palettes import colors
from edgeprune.errors import DataError, few


def open_coco_detection(
    root: Path, split: str, size: Size, train_set: str = "train2017", val_set: str = "val2017"
) -> Boxed:
    """The images of `annotations/instances_<set>.json`, which lie in `<set>/` or `images/<set>/`.

    Args:
        train_set, val_set: what "train" and "val" mean; other splits name their set.

    Raises:
        DataError: the file is missing, not JSON of this kind, or names what it does not hold.
    """
    folder(root)
    chosen = {"train": train_set, "val": val_set}.get(split, split)
    path = root / "annotations" / f"instances_{chosen}.json"
    content = _read(path)
    images = root / "images" / chosen if (root / "images" / chosen).is_dir() else folder(root / chosen)
    try:
        categories = sorted(content["categories"], key=lambda c: c["id"])
        number = {c["id"]: n for n, c in enumerate(categories)}
        boxes: dict[int, list[Box]] = {image["id"]: [] for image in content["images"]}
        for thing in content["annotations"]:
            x, y, w, h = (float(v) for v in thing["bbox"])
            if not are_places([x, y, w, h]):
                raise ValueError(f"bbox {thing['bbox']}")
            if w > 0 and h > 0:  # the published files hold a few without area
                crowd = CROWD if thing.get("iscrowd", 0) else 0
                boxes[thing["image_id"]].append((x, y, x + w, y + h, number[thing["category_id"]], crowd))
        entries = [
            (images / image["file_name"], path, boxes[image["id"]])
            for image in sorted(content["images"], key=lambda i: i["id"])
            if split != "train" or boxes[image["id"]]
        ]
        names = [str(c["name"]) for c in categories]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"{path}: not COCO's instances ({type(error).__name__}: {error})") from error
    return Boxed(entries, names, colors(len(names)), size)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        there = few(sorted(p.name for p in path.parent.glob("instances_*.json")))
        raise DataError(f"{path}: missing (there: {there})") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
