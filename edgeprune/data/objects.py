"""`objects`: pictures of one thing each, drawn from a seed by the brush of `streets`, for trying classification out.

A house, tree, car, person or sign stands large before a street's sky and ground, smaller ones of other kinds around it. It is no
benchmark: numbers on it compare methods with each other and say nothing about real images.
"""

from __future__ import annotations

import numpy as np

from edgeprune.data import streets
from edgeprune.data.dataset import Color, Pair, Size
from edgeprune.data.drawn import Drawn, Pictures, checked
from edgeprune.recipe.base import Seed

CLASSES = ["house", "tree", "car", "person", "sign"]
PALETTE: list[Color] = [
    streets.PALETTE[streets.CLASSES.index(n)] for n in ("building", "tree", "car", "person", "sign")
]
_SEEDS = {"train": 2, "val": 3}


def draw(size: tuple[int, int], kind: int, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8: a thing of class `kind`."""
    s = streets.Scene(size, rng)
    horizon = float(rng.uniform(0.35, 0.65))
    streets.sky(s, horizon)
    streets.ground(s, horizon, float(rng.uniform(0.2, 0.8)))
    for _ in range(rng.integers(1, 5)):
        _thing(
            s, int(rng.integers(len(CLASSES))), float(rng.uniform(0, 1)), horizon + 0.05, float(rng.uniform(0.2, 0.5))
        )
    _thing(s, kind, float(rng.uniform(0.3, 0.7)), float(rng.uniform(0.85, 1.0)), float(rng.uniform(0.8, 1.2)))
    return streets.photo(s, horizon)


def _thing(s: streets.Scene, kind: int, x: float, foot: float, scale: float) -> None:
    """A thing about `scale` times 0.6 high that stands at (x, foot)."""
    if kind == 0:
        half = 0.3 * scale * float(s.rng.uniform(0.7, 1.2))
        streets.house(s, x - half, x + half, foot - 0.7 * scale, foot)
    elif kind == 1:
        streets.tree(s, x, foot, 1.1 * scale)
    elif kind == 2:
        streets.car(s, x, foot, 3.0 * scale)
    elif kind == 3:
        streets.person(s, x, foot, 2.4 * scale)
    else:
        _sign(s, x, foot, scale)


def _sign(s: streets.Scene, x: float, foot: float, scale: float) -> None:
    top, thick = foot - 0.65 * scale, 0.015 * scale
    face = s.color([(190, 40, 40), (40, 70, 160), (215, 190, 50)][s.rng.integers(3)], 20)
    s.box(x - thick, top, x + thick, foot, s.color((110, 110, 112), 28), streets.POLE)
    if s.rng.random() < 0.5:
        s.ellipse(x, top, 0.14 * scale, 0.14 * scale, face, streets.SIGN)
    else:
        s.box(x - 0.13 * scale, top - 0.1 * scale, x + 0.13 * scale, top + 0.12 * scale, face, streets.SIGN)


def _class(index: int) -> np.ndarray:
    """Classes take turns."""
    return np.asarray(index % len(CLASSES), dtype=np.uint8)


def _pair(size: tuple[int, int], rng: np.random.Generator, index: int) -> Pair:
    return draw(size, int(_class(index)), rng), _class(index)


def open_objects(split: str, size: Size, train: Pictures = 2000, val: Pictures = 500, seed: Seed = 0) -> Drawn:
    """`train` and `val` say how many pictures each split holds.

    Raises:
        DataError: no size to draw at, or another split.
    """
    count = {"train": train, "val": val}
    size = checked("objects", split, size, _SEEDS)
    return Drawn(split, size, count[split], seed, _SEEDS[split], _pair, list(CLASSES), list(PALETTE), _class)
