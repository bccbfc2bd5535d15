"""`street_boxes`: the drawn scenes of `streets` with a box around the visible part of each car, person, tree and sign.

Boxes with a side under four pixels are "difficult": they are there, but neither learnt nor judged. It is no benchmark.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import find_objects

from edgeprune.data import streets
from edgeprune.data.dataset import Color, Pair, Size
from edgeprune.data.drawn import Drawn, Pictures, checked
from edgeprune.data.streets import Scene
from edgeprune.recipe.base import Seed

CLASSES = ["car", "person", "tree", "sign"]
PALETTE: list[Color] = [(40, 190, 255), (255, 60, 90), (120, 230, 60), (255, 215, 0)]  # bright, for outlines
_SEEDS = {"train": 4, "val": 5}
_LEAST = 4  # pixels


class Things(Scene):
    """A scene that knows which pixel is of which thing."""

    def __init__(self, size: tuple[int, int], rng: np.random.Generator) -> None:
        super().__init__(size, rng)
        self.things = Image.new("I", (self.w, self.h), 0)
        self._numbers = ImageDraw.Draw(self.things)

    def polygon(self, points: list[tuple[float, float]], color: Color, label: int | None) -> None:
        super().polygon(points, color, label)
        if label is not None:
            self._numbers.polygon(self.pixels(points), fill=self.thing)

    def ellipse(self, x: float, y: float, rx: float, ry: float, color: Color, label: int | None) -> None:
        super().ellipse(x, y, rx, ry, color, label)
        if label is not None:
            at = self.pixels([(x - rx, y - ry), (x + rx, y + ry)])
            self._numbers.ellipse([*at[0], *at[1]], fill=self.thing)


def draw(size: tuple[int, int], rng: np.random.Generator, index: int) -> Pair:
    """One scene: (H, W, 3) uint8, and its boxes (M, 6) float32."""
    s = Things(size, rng)
    photo = streets.paint(s)
    label, things = streets.shrunk(s.label, size), streets.shrunk(s.things, size).astype(np.int64)
    rows = []
    for k, name in enumerate(CLASSES):
        mine = np.where(label == streets.CLASSES.index(name), things, 0)
        for found in find_objects(mine):
            if found is not None:
                (y0, y1), (x0, x1) = ((part.start, part.stop) for part in found)
                rows.append([x0, y0, x1, y1, k, float(min(y1 - y0, x1 - x0) < _LEAST)])
    return photo, np.array(rows, dtype=np.float32).reshape(-1, 6)


def open_street_boxes(split: str, size: Size, train: Pictures = 400, val: Pictures = 100, seed: Seed = 0) -> Drawn:
    """`train` and `val` say how many scenes each split holds.

    Raises:
        DataError: no size to draw at, or another split.
    """
    count = {"train": train, "val": val}
    size = checked("street_boxes", split, size, _SEEDS)
    return Drawn(split, size, count[split], seed, _SEEDS[split], draw, list(CLASSES), list(PALETTE))
