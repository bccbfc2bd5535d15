"""A contact sheet: images of a data set with their labels in colours beside them, and what the colours mean."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from edgeprune.data.check import Split
from edgeprune.data.dataset import Color, Dataset
from edgeprune.data.labels import drawn_mask
from edgeprune.files import replace_with

_CELL = (300, 225)  # (width, height) of a picture
_GAP, _LINE = 10, 18
_PAIRS, _LEGEND = 2, 5  # pairs and legend entries in a row
Draw = Callable[[np.ndarray, np.ndarray, Dataset], np.ndarray]
_PAPER, _INK, _NOTHING = (255, 255, 255), (30, 30, 30), (255, 255, 255)


def write_sheet(path: Path, splits: list[Split], each: int = 6) -> None:
    """A PNG with up to `each` right images of every split, below each other."""
    sheets = [
        contact_sheet(s.data, spread(s.good, each), f"{s.name}: {s.images} images", s.kind.draw)
        for s in splits
        if s.data and s.good
    ]
    whole = Image.new("RGB", (max(s.width for s in sheets), sum(s.height for s in sheets)), _PAPER)
    top = 0
    for sheet in sheets:
        whole.paste(sheet, (0, top))
        top += sheet.height
    replace_with(path, lambda beside: whole.save(beside, "PNG"))


def contact_sheet(data: Dataset, indices: list[int], title: str, draw: Draw = drawn_mask) -> Image.Image:
    """The images of those numbers, each with its label beside it; what is not judged is white.

    Args:
        draw: image, label, data set -> a picture of the label (`labels.Kind`).
    """
    width = _PAIRS * 2 * (_CELL[0] + _GAP) + _GAP
    rows, entries = -(-len(indices) // _PAIRS), -(-(len(data.classes) + 1) // _LEGEND)
    height = 3 * _GAP + _LINE + rows * (_CELL[1] + _LINE + _GAP) + entries * _LINE
    sheet = Image.new("RGB", (width, height), _PAPER)
    pen, font = ImageDraw.Draw(sheet), _font()
    pen.text((_GAP, _GAP), title, _INK, font)
    for place, index in enumerate(indices):
        image, label = data[index]
        row, column = divmod(place, _PAIRS)
        x, y = _GAP + column * 2 * (_CELL[0] + _GAP), 2 * _GAP + _LINE + row * (_CELL[1] + _LINE + _GAP)
        pen.text((x, y), _fitting(pen, data.name(index), 2 * _CELL[0], font), _INK, font)
        for beside, picture in enumerate((image, draw(image, label, data))):
            kind = Image.Resampling.NEAREST if beside else Image.Resampling.BILINEAR
            _paste(sheet, picture, (x + beside * (_CELL[0] + _GAP), y + _LINE), kind)
    _legend(pen, data, height - _GAP - entries * _LINE, width, font)
    return sheet


def _paste(sheet: Image.Image, picture: np.ndarray, at: tuple[int, int], kind: Image.Resampling) -> None:
    shown = Image.fromarray(picture)
    share = min(_CELL[0] / shown.width, _CELL[1] / shown.height)
    shown = shown.resize((max(1, round(shown.width * share)), max(1, round(shown.height * share))), kind)
    sheet.paste(shown, at)
    ImageDraw.Draw(sheet).rectangle((at[0] - 1, at[1] - 1, at[0] + shown.width, at[1] + shown.height), outline=_INK)


def _legend(pen: ImageDraw.ImageDraw, data: Dataset, top: int, width: int, font: ImageFont.FreeTypeFont) -> None:
    entries: list[tuple[str, Color]] = [
        *((f"{i} {name}", color) for i, (name, color) in enumerate(zip(data.classes, data.palette, strict=True))),
        ("not judged", _NOTHING),
    ]
    across = (width - _GAP) // _LEGEND
    for place, (name, color) in enumerate(entries):
        row, column = divmod(place, _LEGEND)
        x, y = _GAP + column * across, top + row * _LINE
        pen.rectangle((x, y + 2, x + 20, y + _LINE - 4), fill=color, outline=_INK)
        pen.text((x + 26, y), _fitting(pen, name, across - 36, font), _INK, font)


def _fitting(pen: ImageDraw.ImageDraw, text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """The text, cut where it is wider than `width` pixels."""
    if pen.textlength(text, font) <= width:
        return text
    while text and pen.textlength(text + "…", font) > width:
        text = text[:-1]
    return text + "…"


def _font() -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along and which knows more than ASCII."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), 12)


def spread(numbers: list[int], count: int) -> list[int]:
    """`count` of them, evenly spread."""
    return [numbers[i * len(numbers) // count] for i in range(count)] if len(numbers) > count else numbers
