"""Training batches as a function of (seed, number): a resumed run sees exactly what the killed one would have seen."""

from __future__ import annotations

import atexit
import multiprocessing
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from edgeprune.data.balance import Balanced, balanced, focus
from edgeprune.data.dataset import Dataset
from edgeprune.data.labels import moved_mask
from edgeprune.data.transforms import IMAGENET, Augment, Normalisation, augmented
from edgeprune.errors import DataError

Batch = tuple[torch.Tensor, ...]  # images and labels; where classes are balanced also the class that each was drawn for
_LONG = 60  # letters of a folder that leave no room for a socket's name in some
Move = Callable[[np.ndarray, torch.Tensor, tuple[int, int]], torch.Tensor]


@dataclass
class _Views(TorchDataset[Batch]):
    """Sample number n of the endless stream; each epoch is a permutation of the images, or `balance` draws them."""

    data: Dataset
    augment: Augment
    crop: tuple[int, int]
    seed: int
    balance: Balanced | None = None
    move: Move = moved_mask
    by: Normalisation = IMAGENET

    def __getitem__(self, number: int) -> Batch:
        generator = torch.Generator().manual_seed(
            int(np.random.SeedSequence([self.seed, 1, number]).generate_state(1)[0])
        )
        if self.balance is not None:
            index, wanted = self.balance.draw(number)
            image, label = self.data[index]
            at = focus(label, wanted, generator)
            view = augmented(image, label, self.augment, self.crop, generator, at, self.move, self.by)
            return *view, torch.tensor(wanted)
        epoch, place = divmod(number, len(self.data))
        index = int(np.random.default_rng([self.seed, epoch]).permutation(len(self.data))[place])
        return augmented(*self.data[index], self.augment, self.crop, generator, move=self.move, by=self.by)


@dataclass
class _Numbers:
    """Batches of sample numbers from batch `start` on, of one process among `world`."""

    batch: int
    start: int
    rank: int
    world: int

    def __iter__(self) -> Iterator[list[int]]:
        at = self.start
        while True:
            first = (at * self.world + self.rank) * self.batch
            yield list(range(first, first + self.batch))
            at += 1


@dataclass
class Batches:
    """The endless stream of augmented training batches.

    Args:
        batch: images a batch and process.
        workers: loading processes; 0 loads in this one.
        balance: draws classes equally often; None: every image once an epoch.
        move: what becomes of a label in a view (`labels.Kind`).
        by: how images are normalised.
    """

    data: Dataset
    augment: Augment
    crop: tuple[int, int]
    batch: int
    seed: int
    workers: int = 0
    balance: Balanced | None = None
    move: Move = moved_mask
    by: Normalisation = IMAGENET

    @property
    def per_epoch(self) -> int:
        """Batches that see as many images as there are."""
        return max(1, round(len(self.data) / self.batch))

    def stream(self, start: int = 0, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """(B, 3, h, w) float32 and labels (masks: (B, h, w) int64), from batch number `start` on, without end.

        With `balance` also the (B,) int64 classes that the images were drawn for.
        """
        views: Any = _Views(self.data, self.augment, self.crop, self.seed, self.balance, self.move, self.by)
        numbers: Any = _Numbers(self.batch, start, rank, world)
        if self.workers:
            short_sockets()
        return iter(DataLoader(views, batch_sampler=numbers, num_workers=self.workers, persistent_workers=False))


def short_sockets() -> None:
    """Processes hand tensors over by sockets, whose paths have 107 letters at most: not below a long TMPDIR.

    Python gives way to /tmp by itself from 3.14 on.
    """
    config: dict[str, Any] = getattr(multiprocessing.current_process(), "_config", {})
    if len(tempfile.gettempdir()) > _LONG and config.get("tempdir") is None:
        config["tempdir"] = tempfile.mkdtemp(prefix="pymp-", dir="/tmp")
        atexit.register(shutil.rmtree, config["tempdir"], ignore_errors=True)


def train_loader(
    data: Dataset,
    cfg: Any,
    seed: int,
    workers: int = 0,
    crop: tuple[int, int] | None = None,
    move: Move = moved_mask,
    balance: Balanced | None = None,
    by: Normalisation = IMAGENET,
) -> Batches:
    """The batches of a training schedule (`recipe.Train`).

    Args:
        balance: another loader's of the same data, which spares reading all labels again; its seed is not taken.
        crop: (h, w) where `cfg.augment.crop` says none; None: the first image's size.
        move: what becomes of a label in a view (`labels.Kind`).
        by: how images are normalised.

    Raises:
        DataError: no images, or none to balance.
    """
    if not len(data):
        raise DataError("data: no training images")
    if cfg.resample == "class_balanced":
        balance = replace(balance, seed=seed) if balance else balanced(data, seed)
    else:
        balance = None
    height, width = cfg.augment.crop or crop or data[0][0].shape[:2]
    return Batches(data, cfg.augment, (height, width), cfg.batch, seed, workers, balance, move, by)
