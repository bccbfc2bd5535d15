"""The page's figures, as SVG: accuracy against measured latency, and masks side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np

from edgeprune.data.camvid import CLASSES, PALETTE
from edgeprune.files import replace_with

# the same picture from the same numbers, byte for byte
matplotlib.rcParams.update({"svg.hashsalt": "edgeprune", "svg.fonttype": "none", "font.size": 9})
_BOLD = {"edgeprune": "#0b6e4f"}
_OTHERS = plt.get_cmap("tab20")


def front(path: Path, points: Mapping[str, Sequence[tuple[float, float, float]]], title: str) -> None:
    """One line a method: (share of the dense engine's ms, mIoU in points less its dense networks', the spread of that).

    Less the dense networks', since some methods were run on fewer seeds, and those are of other dense networks.
    """
    figure, axes = plt.subplots(figsize=(8.5, 4.8))
    axes.axhline(0, color="black", lw=0.8, ls="--")
    axes.text(0.01, 0, " dense", va="bottom", transform=axes.get_yaxis_transform())
    for number, (name, found) in enumerate(points.items()):
        x, y, spread = (np.array(v) for v in zip(*sorted(found), strict=True))
        style = (
            {"color": _BOLD[name], "lw": 2.4, "zorder": 5}
            if name in _BOLD
            else {"color": _OTHERS(number % 20), "lw": 1}
        )
        axes.errorbar(
            x, y, spread if spread.any() else None, marker="o", ms=4, capsize=2, label=name,
            ls=":" if name.startswith("tp_") else "-", **style,
        )  # fmt: skip
    axes.set(
        xlabel="measured latency, share of the dense engine's",
        ylabel="mIoU of the engine less the dense network's",
        title=title,
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    _save(figure, path)


def lengths(path: Path, curves: Mapping[str, Mapping[int, Sequence[tuple[float, float]]]], title: str) -> None:
    """One line a method and seed: (optimiser steps of the fine-tuning, mIoU in points less its dense network's)."""
    figure, axes = plt.subplots(figsize=(8.5, 4.2))
    axes.axhline(0, color="black", lw=0.8, ls="--")
    axes.text(0.01, 0, " dense", va="bottom", transform=axes.get_yaxis_transform())
    for number, (name, seeds) in enumerate(curves.items()):
        colour = _BOLD.get(name, _OTHERS((4 + 2 * number) % 20))
        for i, found in enumerate(seeds.values()):
            axes.plot(
                *zip(*sorted(found), strict=True), marker="o", ms=4, lw=2 if name in _BOLD else 1, color=colour,
                ls=":" if name.startswith("tp_") else "-", label=name if i == 0 else None,
            )  # fmt: skip
    ticks = sorted({x for seeds in curves.values() for found in seeds.values() for x, _ in found})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axes.minorticks_off()
    axes.set(xlabel="optimiser steps of the fine-tuning", ylabel="mIoU less the dense network's, points", title=title)
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    _save(figure, path)


def masks(path: Path, columns: dict[str, list[dict[str, Any]]], title: str) -> None:
    """A column a network, a row an image; classes in CamVid's colours."""
    colours = np.array([*PALETTE, (0, 0, 0)], np.uint8)
    rows = len(next(iter(columns.values())))
    figure, axes = plt.subplots(rows, len(columns), figsize=(2.6 * len(columns), 2.1 * rows + 0.8), squeeze=False)
    for column, (name, found) in enumerate(columns.items()):
        for row, told in enumerate(found):
            mask = np.repeat(*(np.array(told[k].split(), int) for k in ("classes", "lengths"))).reshape(told["shape"])
            axes[row][column].imshow(colours[mask], interpolation="nearest")
            axes[row][column].axis("off")
        axes[0][column].set_title(name, fontsize=9)
    squares = [plt.Rectangle((0, 0), 1, 1, color=np.array(c) / 255) for c in PALETTE]
    figure.legend(
        squares,
        CLASSES,
        loc="lower center",
        ncol=len(CLASSES),
        fontsize=7,
        frameon=False,
        handlelength=1,
        columnspacing=0.9,
    )
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_with(
        path, lambda beside: figure.savefig(beside, format="svg", bbox_inches="tight", metadata={"Date": None})
    )
    plt.close(figure)
