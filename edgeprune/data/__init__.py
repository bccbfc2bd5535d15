"""The data sets, by the name that a recipe uses. In all of them 255 means "not judged"."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeprune.data.camvid import open_camvid
from edgeprune.data.cityscapes import open_cityscapes
from edgeprune.data.dataset import IGNORE, Dataset
from edgeprune.data.images import open_folder
from edgeprune.data.streets import open_streets
from edgeprune.data.subset import Spread
from edgeprune.errors import DataError

__all__ = ["DATASETS", "IGNORE", "Dataset", "open_dataset"]

DATASETS: dict[str, Callable[..., Dataset]] = {
    "streets": open_streets,
    "camvid": open_camvid,
    "cityscapes": open_cityscapes,
    "folder": open_folder,
}


def open_dataset(
    name: str, root: str | None, split: str, size: tuple[int, int], limit: int | None = None, **args: Any
) -> Dataset:
    """The split "train" or "val" of a data set, images resized to `size` (H, W).

    Raises:
        DataError: one line that names the file or the key.
    """
    if name not in DATASETS:
        raise DataError(f"data.name: {name!r} is not one of {', '.join(DATASETS)}")
    where = {} if root is None else {"root": Path(root).expanduser()}
    try:
        data = DATASETS[name](split=split, size=tuple(size), **where, **args)
    except TypeError as error:
        raise DataError(f"data.args: {name} does not take them ({error})") from error
    if not len(data):
        raise DataError(f"data.root: {root} holds no {split} images")
    return Spread(data, limit) if limit and limit < len(data) else data
