"""Colours for classes, where a data set brings none of its own."""

from __future__ import annotations

import colorsys

from edgeprune.data.dataset import Color


def colors(count: int) -> list[Color]:
    """Colours that differ, in a fixed order."""
    golden = 0.618034
    rgb = [colorsys.hsv_to_rgb(i * golden % 1, 0.55 + 0.4 * (i % 2), 0.95 - 0.3 * (i % 3) / 2) for i in range(count)]
    return [(int(255 * r), int(255 * g), int(255 * b)) for r, g, b in rgb]


def voc_colors(count: int) -> list[Color]:
    """PASCAL VOC's colour map (VOCdevkit's `VOClabelcolormap`): the id's bits, dealt to the channels from the top bit down."""
    return [_voc_color(i) for i in range(count)]


def _voc_color(label: int) -> Color:
    rgb = [0, 0, 0]
    for step in range(8):
        for channel in range(3):
            rgb[channel] |= (label >> (3 * step + channel) & 1) << (7 - step)
    return rgb[0], rgb[1], rgb[2]
