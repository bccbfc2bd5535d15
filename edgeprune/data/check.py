"""Is a data set whole and right? Reads its images and labels one by one, counts what each class has, and keeps every fault."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from edgeprune.data import missing_in, open_dataset, task_of
from edgeprune.data.dataset import Dataset
from edgeprune.data.labels import KINDS, Kind, unfit
from edgeprune.errors import DataError, few
from edgeprune.progress import Progress
from edgeprune.recipe import DRAWN

_SIZE = (256, 512)  # generated sets have no size of their own
_SHOWN = 10


@dataclass
class Split:
    """What was found in a split.

    Attributes:
        images: that it names; `read` of them were read and are right.
        faults: one line each, with the file.
        kind: of its labels; says what is counted.
        counts: (K + 1,) pixels, images or boxes of each class, and last of those not judged.
        holders: (K,) images that hold the class.
        sizes: the (H, W) met, with how many images have it.
    """

    name: str
    data: Dataset | None = None
    kind: Kind = KINDS["segmentation"]
    images: int = 0
    read: int = 0
    faults: list[str] = field(default_factory=list)
    counts: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    holders: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)
    good: list[int] = field(default_factory=list, repr=False)

    @property
    def never(self) -> list[str]:
        """The classes that no image read holds."""
        classes = self.data.classes if self.data else []
        return [name for name, count in zip(classes, self.holders, strict=True) if not count] if self.read else []


def check(
    name: str, root: str | None, split: str, limit: int | None = None, args: dict[str, Any] | None = None
) -> Split:
    """Read a split at its own size: all of it, or `limit` pairs evenly spread. Files that are missing are always all named.

    A fault is kept, not raised.
    """
    found = Split(split)
    try:
        data = open_dataset(name, root, split, _SIZE if name in DRAWN else None, complete=False, **(args or {}))
    except DataError as error:
        found.faults.append(str(error))
        return found
    k = len(data.classes)
    found.data, found.images, found.kind = data, len(data), KINDS[task_of(name)]
    found.counts, found.holders = np.zeros(k + 1, np.int64), np.zeros(k, np.int64)
    lost = missing_in(data)
    found.faults += lost.values()
    count = min(limit or len(data), len(data))
    with Progress(f"reading {split}", count, unit="images") as bar:
        for i in range(count):
            index = i * len(data) // count
            if index not in lost:
                _one(found, data, index)
            bar.move(1)
    if found.read == len(data) and (fault := unfit(task_of(name), split, data.classes, found.holders, found.read)):
        found.faults.append(fault)
    return found


def _one(found: Split, data: Dataset, index: int) -> None:
    try:
        image, label = data[index]
    except DataError as error:
        found.faults.append(str(error))
        return
    k = len(data.classes)
    counts = found.kind.count(label, k)
    found.read += 1
    found.good.append(index)
    found.counts += counts
    found.holders += counts[:k] > 0
    size = (image.shape[0], image.shape[1])
    found.sizes[size] = found.sizes.get(size, 0) + 1


def summary(found: Split) -> str:
    """One line: how many images, of which sizes, what is never there."""
    sides = np.array(list(found.sizes)).reshape(-1, 2)
    size = f", {'x'.join(map(str, sides[0]))}" if len(sides) == 1 else f", {_span(sides)}" if len(sides) else ""
    never = f"; never there: {few(found.never)}" if found.never else ""
    return f"{found.name}: {found.images} images, {found.read} read and right{size}{never}"


def _span(sides: np.ndarray) -> str:
    low, high = sides.min(0), sides.max(0)
    return f"{len(sides)} sizes, {low[0]} to {high[0]} high, {low[1]} to {high[1]} wide"


def table(splits: list[Split]) -> Table:
    """Each class's share of the judged pixels (images, boxes), and the images that hold it, by split."""
    there = [s for s in splits if s.data is not None]
    shown = Table(title=f"share of the judged {there[0].kind.unit if there else ''}, and images that hold the class")
    shown.add_column("id", justify="right")
    shown.add_column("class")
    for split in there:
        shown.add_column(split.name, justify="right")
        shown.add_column("images", justify="right")
    for i, name in enumerate(there[0].data.classes if there and there[0].data else []):
        cells = [(f"{s.counts[i] / max(s.counts[:-1].sum(), 1):.3%}", str(s.holders[i])) for s in there]
        shown.add_row(str(i), name, *(c for pair in cells for c in pair))
    cells = [(f"{s.counts[-1] / max(s.counts.sum(), 1):.3%}", "") for s in there]
    shown.add_section()
    shown.add_row("", "not judged (of all)", *(c for pair in cells for c in pair))
    return shown


def refuse(splits: list[Split], console: Console) -> None:
    """Print the first faults, where there are several.

    Raises:
        DataError: there are faults; their number, or the only one.
    """
    faults = list(dict.fromkeys(fault for split in splits for fault in split.faults))
    if len(faults) > 1:
        for fault in faults[:_SHOWN]:
            console.print(f"fault: {fault}", markup=False, highlight=False, soft_wrap=True)
        raise DataError(f"{len(faults)} faults" + (f"; the first {_SHOWN} are named" if len(faults) > _SHOWN else ""))
    if faults:
        raise DataError(faults[0])
