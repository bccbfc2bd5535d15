"""Class-balanced resampling, as DCFP and SIRFP train with (Wang et al., TCSVT 2024; their code's `resample`).

Every class is drawn equally often, and every image that holds it equally often for it: an image comes with the share
1/K * sum over its classes c of 1/n_c, where n_c images hold c and K classes are there at all. The crop is then laid around one
of the class's regions. In their code an epoch is shuffled as a whole; here each K samples in a row hold every class once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import label as regions_of

from edgeprune.data.dataset import Dataset
from edgeprune.errors import DataError
from edgeprune.progress import Progress


@dataclass
class Balanced:
    """Which image and class sample number n of the endless stream is, from (seed, n) alone.

    Args:
        holders: the images' numbers that hold a class, for each class that any holds.
        classes: those classes' ids.
    """

    holders: list[np.ndarray]
    classes: list[int]
    seed: int

    def draw(self, number: int) -> tuple[int, int]:
        """(image, class): in each round every class comes once; over a class's rounds its images are permuted anew."""
        turn, place = divmod(number, len(self.classes))
        at = int(np.random.default_rng([self.seed, 3, turn]).permutation(len(self.classes))[place])
        again, which = divmod(turn, len(self.holders[at]))
        order = np.random.default_rng([self.seed, 4, at, again]).permutation(self.holders[at])
        return int(order[which]), self.classes[at]

    def shares(self, images: int) -> np.ndarray:
        """(N,) how often each image comes, sum 1."""
        share = np.zeros(images)
        for holders in self.holders:
            share[holders] += 1 / (len(holders) * len(self.holders))
        return share


def balanced(data: Dataset, seed: int) -> Balanced:
    """Reads every label once.

    Raises:
        DataError: no label holds any class.
    """
    there = np.zeros((len(data), len(data.classes)), dtype=bool)
    with Progress("reading which image holds which class", len(data), unit="labels") as bar:
        for index in range(len(data)):
            found = np.unique(data.label(index))
            there[index, found[found < len(data.classes)]] = True
            bar.move(1)
    classes = [int(c) for c in np.flatnonzero(there.any(0))]
    if not classes:
        raise DataError("train.resample: no training label holds any class")
    return Balanced([np.flatnonzero(there[:, c]) for c in classes], classes, seed)


def focus(label: np.ndarray, wanted: int, generator: torch.Generator) -> tuple[int, int] | None:
    """(y, x) of a pixel of one region of the class, each region as likely (8-connected); None where there is none.

    Their code looks for regions after the random scale, we before it (our reading: the same up to rounding).
    """
    regions, count = regions_of(label == wanted, structure=np.ones((3, 3)))  # type: ignore[misc]
    if not count:
        return None
    ys, xs = np.nonzero(regions == 1 + _below(count, generator))
    at = _below(len(ys), generator)
    return int(ys[at]), int(xs[at])


def _below(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))
