"""`streets`: street scenes drawn from a seed, for trying things out without a download.

A road in perspective, pavements, houses with windows and posters, trees, cars, people, poles and signs under a sky; light,
haze, noise, shadows and colours vary so much that colour alone does not tell the classes apart. The classes have a long
tail (poles, signs and people cover about one pixel in a hundred together), as real street sets have. It is no benchmark:
numbers on it compare methods with each other and say nothing about real images.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from edgeprune.data.dataset import Color, Pair, Size
from edgeprune.data.drawn import Drawn, Pictures, checked
from edgeprune.recipe.base import Seed

CLASSES = ["sky", "building", "road", "pavement", "tree", "car", "person", "pole", "sign"]
PALETTE: list[Color] = [
    (70, 130, 180), (70, 70, 70), (128, 64, 128), (244, 35, 232), (107, 142, 35), (0, 0, 142), (220, 20, 60),
    (190, 153, 90), (220, 220, 0),
]  # fmt: skip
SKY, BUILDING, ROAD, PAVEMENT, TREE, CAR, PERSON, POLE, SIGN = range(9)
_FINER = 2  # drawn this much finer than asked, then averaged
_SEEDS = {"train": 0, "val": 1}


class Scene:
    """An image and its label under one brush, in coordinates of 0 to 1."""

    def __init__(self, size: tuple[int, int], rng: np.random.Generator) -> None:
        self.h, self.w, self.rng = size[0] * _FINER, size[1] * _FINER, rng
        self.image, self.label = Image.new("RGB", (self.w, self.h)), Image.new("L", (self.w, self.h), SKY)
        self._pen, self._ids = ImageDraw.Draw(self.image), ImageDraw.Draw(self.label)
        self.thing = 0  # which thing is being drawn, counted from 1; 0: none

    def pixels(self, points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        """From 0 to 1 to pixels."""
        return [(x * self.w, y * self.h) for x, y in points]

    def polygon(self, points: list[tuple[float, float]], color: Color, label: int | None) -> None:
        self._pen.polygon(self.pixels(points), fill=color)
        if label is not None:
            self._ids.polygon(self.pixels(points), fill=label)

    def box(self, x0: float, y0: float, x1: float, y1: float, color: Color, label: int | None) -> None:
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], color, label)

    def ellipse(self, x: float, y: float, rx: float, ry: float, color: Color, label: int | None) -> None:
        at = self.pixels([(x - rx, y - ry), (x + rx, y + ry)])
        self._pen.ellipse([*at[0], *at[1]], fill=color)
        if label is not None:
            self._ids.ellipse([*at[0], *at[1]], fill=label)

    def color(self, base: Color, spread: float) -> Color:
        return tuple(int(v) for v in np.clip(np.array(base) + self.rng.normal(0, spread, 3), 0, 255))  # type: ignore[return-value]


def sky(s: Scene, horizon: float) -> None:
    top = np.array(s.color([(90, 140, 210), (170, 175, 180), (200, 150, 120), (120, 125, 135)][s.rng.integers(4)], 18))
    low = np.array(s.color((205, 205, 200), 25))
    for i in range(24):
        color = tuple(int(v) for v in top + (low - top) * i / 24)
        s.box(0, horizon * i / 24, 1, horizon * (i + 1) / 24 + 0.01, color, SKY)  # type: ignore[arg-type]
    for _ in range(s.rng.integers(0, 7)):
        x, y = s.rng.uniform(0, 1), s.rng.uniform(0, horizon)
        s.ellipse(x, y, s.rng.uniform(0.03, 0.15), s.rng.uniform(0.01, 0.04), s.color((225, 225, 228), 14), None)


def ground(s: Scene, horizon: float, vanish: float) -> tuple[float, float]:
    """Pavement, road, markings, shadows; gives the road's left and right foot."""
    grey = s.rng.uniform(60, 135)
    road, pave = s.color((grey, grey, grey), 9), s.color((grey + s.rng.uniform(5, 45),) * 3, 14)  # type: ignore[arg-type]
    s.box(0, horizon, 1, 1, pave, PAVEMENT)
    for _ in range(12):  # slabs
        y = horizon + (1 - horizon) * s.rng.uniform(0.05, 1) ** 1.5
        s.box(0, y, 1, y + 0.004, s.color(pave, 16), None)
    left, right = vanish - s.rng.uniform(0.45, 0.85), vanish + s.rng.uniform(0.45, 0.85)
    s.polygon([(vanish - 0.012, horizon), (vanish + 0.012, horizon), (right, 1), (left, 1)], road, ROAD)
    for lane in np.linspace(0, 1, s.rng.integers(2, 5))[1:-1]:
        for near in np.linspace(0.05, 0.95, 7):
            a, b = near**2, min(near + 0.07, 1) ** 2
            x = [vanish + (left + (right - left) * lane - vanish) * t for t in (a, b)]
            y = [horizon + (1 - horizon) * t for t in (a, b)]
            s.polygon(
                [(x[0], y[0]), (x[0] + 0.012 * a, y[0]), (x[1] + 0.012 * b, y[1]), (x[1], y[1])],
                s.color((215, 215, 205), 15),
                None,
            )
    for _ in range(s.rng.integers(2, 8)):  # shadows and wet patches
        x, y = s.rng.uniform(0, 1), s.rng.uniform(horizon + 0.06, 1)
        depth = (y - horizon) / (1 - horizon)
        s.ellipse(x, y, 0.25 * depth * s.rng.uniform(0.2, 1), 0.04 * depth, s.color((grey - 28,) * 3, 10), None)  # type: ignore[arg-type]
    return left, right


def house(s: Scene, x0: float, x1: float, top: float, foot: float) -> None:
    base = [(150, 120, 100), (175, 170, 160), (120, 130, 145), (95, 105, 85), (185, 150, 110), (80, 80, 85)]
    wall = s.color(base[s.rng.integers(len(base))], 18)
    s.box(x0, top, x1, foot, wall, BUILDING)
    pane = s.color(wall, 45)
    across, up = (
        max(1, int((x1 - x0) / s.rng.uniform(0.025, 0.06))),
        max(1, int((foot - top) / s.rng.uniform(0.06, 0.12))),
    )
    for i in range(across):
        for j in range(up):
            wx, wy = x0 + (x1 - x0) * (i + 0.25) / across, top + (foot - top) * (j + 0.2) / up
            s.box(wx, wy, wx + (x1 - x0) * 0.5 / across, wy + (foot - top) * 0.5 / up, s.color(pane, 14), None)
    if s.rng.random() < 0.45:  # a poster: looks like a sign or a car, is a building
        px, py = s.rng.uniform(x0, x1), s.rng.uniform(top, foot)
        s.box(
            px,
            py,
            min(px + s.rng.uniform(0.01, 0.05), x1),
            min(py + s.rng.uniform(0.02, 0.08), foot),
            s.color((150, 90, 90), 70),
            None,
        )


def tree(s: Scene, x: float, foot: float, depth: float) -> None:
    height, green = 0.65 * depth * s.rng.uniform(0.6, 1.2), [(70, 105, 50), (95, 120, 60), (140, 105, 50), (60, 75, 55)]
    leaf = s.color(green[s.rng.integers(4)], 15)
    s.box(x - 0.012 * depth, foot - height * 0.6, x + 0.012 * depth, foot, s.color((80, 65, 50), 12), TREE)
    for _ in range(14):
        dx, dy = s.rng.normal(0, 0.05 * depth), s.rng.normal(-height * 0.75, height * 0.13)
        s.ellipse(
            x + dx,
            foot + dy,
            0.045 * depth * s.rng.uniform(0.5, 1.3),
            0.08 * depth * s.rng.uniform(0.5, 1.2),
            s.color(leaf, 14),
            TREE,
        )


def car(s: Scene, x: float, foot: float, depth: float) -> None:
    w, h = 0.17 * depth * s.rng.uniform(0.8, 1.5), 0.17 * depth * s.rng.uniform(0.8, 1.15)
    paint = s.color(
        [(160, 30, 30), (40, 60, 120), (190, 190, 190), (45, 45, 48), (120, 125, 110)][s.rng.integers(5)], 18
    )
    s.box(x - w / 2, foot - h * 0.62, x + w / 2, foot - h * 0.12, paint, CAR)
    roof = [
        (x - w * 0.36, foot - h * 0.6),
        (x - w * 0.24, foot - h),
        (x + w * 0.24, foot - h),
        (x + w * 0.36, foot - h * 0.6),
    ]
    s.polygon(roof, paint, CAR)
    s.box(x - w * 0.22, foot - h * 0.93, x + w * 0.22, foot - h * 0.64, s.color((70, 85, 95), 20), CAR)
    for side in (-0.32, 0.32):
        s.ellipse(x + w * side, foot - h * 0.12, w * 0.1, h * 0.14, s.color((25, 25, 25), 8), CAR)
    s.ellipse(x, foot, w * 0.5, h * 0.05, s.color((35, 35, 38), 8), None)


def person(s: Scene, x: float, foot: float, depth: float) -> None:
    h = 0.27 * depth * s.rng.uniform(0.8, 1.15)
    coat, legs = s.color((105, 95, 95), 48), s.color((60, 60, 75), 24)
    w, stride = h * 0.14, s.rng.uniform(0.2, 0.9)
    s.polygon([(x - w * 0.4, foot - h * 0.5), (x, foot - h * 0.5), (x - w * stride, foot)], legs, PERSON)
    s.polygon([(x, foot - h * 0.5), (x + w * 0.4, foot - h * 0.5), (x + w * stride, foot)], legs, PERSON)
    s.box(x - w * 0.5, foot - h * 0.84, x + w * 0.5, foot - h * 0.42, coat, PERSON)
    s.ellipse(x, foot - h * 0.92, w * 0.3, h * 0.08, s.color((175, 135, 110), 25), PERSON)


def post(s: Scene, x: float, foot: float, depth: float) -> None:
    h, thick = 0.6 * depth * s.rng.uniform(0.6, 1.1), max(0.006 * depth, 0.003)
    s.box(x - thick, foot - h, x + thick, foot, s.color((110, 110, 112), 28), POLE)
    kind = s.rng.integers(3)
    face = s.color([(190, 40, 40), (40, 70, 160), (215, 190, 50)][s.rng.integers(3)], 20)
    if kind == 0:
        s.ellipse(x, foot - h, 0.032 * depth, 0.055 * depth, face, SIGN)
    elif kind == 1:
        s.box(x - 0.035 * depth, foot - h, x + 0.035 * depth, foot - h + 0.08 * depth, face, SIGN)
    else:
        s.box(
            x,
            foot - h,
            x + 0.07 * depth * s.rng.choice([-1, 1]),
            foot - h + 2 * thick,
            s.color((110, 110, 112), 20),
            POLE,
        )


def draw(size: tuple[int, int], rng: np.random.Generator, index: int) -> Pair:
    """One scene: ((H, W, 3), (H, W)) uint8."""
    s = Scene(size, rng)
    return paint(s), shrunk(s.label, size)


def shrunk(ids: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """A map of ids at (H, W)."""
    return np.array(ids.resize((size[1], size[0]), Image.Resampling.NEAREST))


def paint(s: Scene) -> np.ndarray:
    """Draw a whole street; gives the photograph of it, (H, W, 3) uint8."""
    rng = s.rng
    horizon, vanish = rng.uniform(0.34, 0.5), rng.uniform(0.3, 0.7)
    sky(s, horizon)
    for _ in range(rng.integers(3, 9)):  # houses and woods far away
        x = rng.uniform(-0.1, 1)
        house(s, x, x + rng.uniform(0.04, 0.14), horizon - rng.uniform(0.03, 0.16), horizon + 0.01)
    left, right = ground(s, horizon, vanish)
    things: list[tuple[float, int, float]] = []  # (depth, kind, offset over the ground), drawn from far to near
    for kind, least, most in ((0, 5, 10), (1, 1, 7), (2, 1, 7), (3, 2, 9), (4, 2, 7)):
        things += [
            (float(rng.uniform(0.12, 1) ** 1.4), kind, float(rng.uniform(-1, 1)))
            for _ in range(rng.integers(least, most))
        ]
    for depth, kind, offset in sorted(things):
        foot = horizon + (1 - horizon) * depth
        edge = [vanish + (side - vanish) * depth for side in (left, right)]
        side = edge[0] if offset < 0 else edge[1]
        beside = side + np.sign(offset) * depth * (0.05 + 0.3 * abs(offset))
        s.thing += 1
        if kind == 0:
            far = side + np.sign(offset) * depth * 0.32
            width = depth * rng.uniform(0.2, 0.5) * np.sign(offset)
            house(s, min(far, far + width), max(far, far + width), foot - depth * rng.uniform(0.5, 1.2), foot)
        elif kind == 1:
            tree(s, beside, foot, depth)
        elif kind == 2:
            car(s, edge[0] + (edge[1] - edge[0]) * (0.1 + 0.4 * (offset + 1)), foot, depth)
        elif kind == 3:
            person(s, beside if rng.random() < 0.75 else edge[0] + (edge[1] - edge[0]) * abs(offset), foot, depth)
        else:
            post(s, side + np.sign(offset) * depth * 0.04, foot, depth)
    return photo(s, horizon)


def photo(s: Scene, horizon: float) -> np.ndarray:
    """Haze, light from one side, blur and sensor noise."""
    rng, size = s.rng, (s.w // _FINER, s.h // _FINER)
    soft = s.image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.6))))
    image = np.asarray(soft.resize(size, Image.Resampling.BOX), dtype=np.float32)
    rows = np.abs(np.linspace(0, 1, size[1]) - horizon)[:, None, None]
    haze = rng.uniform(0, 0.45) * np.exp(-rows * 7)
    image = image * (1 - haze) + haze * rng.uniform(150, 215)
    light = 1 + rng.uniform(-0.3, 0.3) * np.linspace(-1, 1, size[0])[None, :, None]
    tint = rng.normal(1, 0.06, 3)
    mean = image.mean()
    image = (image - mean) * rng.uniform(0.6, 1.15) + mean * rng.uniform(0.6, 1.2)
    image = image * light * tint + rng.normal(0, rng.uniform(3, 13), image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def open_streets(split: str, size: Size, train: Pictures = 320, val: Pictures = 80, seed: Seed = 0) -> Drawn:
    """`train` and `val` say how many scenes each split holds.

    Raises:
        DataError: no size to draw at, or another split.
    """
    count = {"train": train, "val": val}
    size = checked("streets", split, size, _SEEDS)
    return Drawn(split, size, count[split], seed, _SEEDS[split], draw, list(CLASSES), list(PALETTE))
