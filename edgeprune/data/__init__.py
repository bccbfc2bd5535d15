"""The data sets, by the name that a recipe uses, a table a task. In masks 255 means "not judged"."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeprune.data.ade20k import open_ade20k
from edgeprune.data.boxes import Boxed
from edgeprune.data.camvid import open_camvid
from edgeprune.data.cifar10 import open_cifar10
from edgeprune.data.cityscapes import open_cityscapes
from edgeprune.data.class_folders import open_class_folders
from edgeprune.data.coco_detection import open_coco_detection
from edgeprune.data.cocostuff10k import open_cocostuff10k
from edgeprune.data.dataset import IGNORE, Dataset, Files, Size
from edgeprune.data.images import open_folder
from edgeprune.data.layout import missing
from edgeprune.data.objects import open_objects
from edgeprune.data.pascal_context import open_pascal_context
from edgeprune.data.street_boxes import open_street_boxes
from edgeprune.data.streets import open_streets
from edgeprune.data.subset import Spread
from edgeprune.data.voc2012 import open_voc2012
from edgeprune.data.voc_detection import open_voc_detection
from edgeprune.errors import DataError
from edgeprune.recipe import DRAWN

__all__ = ["DATASETS", "GIVEN", "IGNORE", "TASK_SETS", "Dataset", "open_dataset", "task_of"]

Open = Callable[..., Dataset]
TASK_SETS: dict[str, dict[str, Open]] = {
    "segmentation": {
        "streets": open_streets,
        "camvid": open_camvid,
        "cityscapes": open_cityscapes,
        "voc2012": open_voc2012,
        "ade20k": open_ade20k,
        "cocostuff10k": open_cocostuff10k,
        "pascal_context": open_pascal_context,
        "folder": open_folder,
    },
    "classification": {
        "objects": open_objects,
        "cifar10": open_cifar10,
        "class_folders": open_class_folders,
    },
    "detection": {
        "street_boxes": open_street_boxes,
        "voc_detection": open_voc_detection,
        "coco_detection": open_coco_detection,
    },
}
DATASETS: dict[str, Open] = {name: made for sets in TASK_SETS.values() for name, made in sets.items()}
GIVEN = {  # what a data set gets from elsewhere than data.args
    "root": "data.root", "size": "data.size", "split": "the stages", "name": "data.name", "complete": "the stages",
    "limit": "data.train_images and data.val_images",
}  # fmt: skip


def task_of(name: str) -> str:
    """The task that a data set's labels are for."""
    return next(task for task, sets in TASK_SETS.items() if name in sets)


def open_dataset(
    name: str,
    root: str | None,
    split: str,
    size: Size,
    limit: int | None = None,
    complete: bool = True,
    **args: Any,
) -> Dataset:
    """The split "train" or "val" of a data set, images resized to `size`.

    Args:
        size: (H, W); a number: that short side, the shape kept; None: each image as it is.
        limit: so many images, evenly spread.
        complete: refuse a set some of whose files are missing now, and not when they are read.

    Raises:
        DataError: one line that names the file or the key.
    """
    if name not in DATASETS:
        raise DataError(f"data.name: {name!r} is not one of {', '.join(DATASETS)}")
    if root is None and name not in DRAWN:
        raise DataError(f"data.root is missing: the folder of {name}")
    where = {} if root is None else {"root": Path(root).expanduser()}
    try:
        data = DATASETS[name](
            split=split, size=size if size is None or isinstance(size, int) else tuple(size), **where, **args
        )
    except TypeError as error:
        raise DataError(f"data.args: {name} does not take them ({error})") from error
    if not len(data):
        raise DataError(f"data.root: {root} holds no {split} images")
    if complete and (lost := list(missing_in(data).values())):
        raise DataError(lost[0] + (f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""))
    return Spread(data, limit) if limit and limit < len(data) else data


def missing_in(data: Dataset) -> dict[int, str]:
    """What is wrong with the entries some of whose files are not there, by their number."""
    if isinstance(data, Boxed):
        return data.missing()
    return missing(data.pairs) if isinstance(data, Files) else {}
