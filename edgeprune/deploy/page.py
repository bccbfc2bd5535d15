"""The report as one self-contained HTML page: nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, select_autoescape
from PIL import Image

from edgeprune.data.dataset import IGNORE, Color
from edgeprune.deploy import plots
from edgeprune.deploy.table import judged_by

Masks = dict[str, np.ndarray]


def render(report: dict[str, Any], pictures: Masks, palette: list[Color]) -> str:
    """The page of a report; `pictures` as `verify/masks.npz` holds them."""
    environment = Environment(
        loader=PackageLoader("edgeprune.deploy"), autoescape=select_autoescape(), trim_blocks=True
    )
    classes = report["data"]["classes"]
    return environment.get_template("report.html").render(
        r=report,
        judged_by=judged_by(report["dense"]["evaluate"]) if "evaluate" in report["dense"] else None,
        rows=_rows(pictures, palette, "engine" if report["engine"]["measured"] else "graph"),
        legend=[(name, "#" + bytes(color).hex()) for name, color in zip(classes, palette, strict=True)],
        classes_plot=plots.classes(report),
        widths_plot=plots.widths(report),
        latency_plot=plots.latency(report) if report["engine"]["measured"] else None,
        stages_plot=plots.stages(report),
        layers_plot=plots.layers(report) if report["layers"] and report["layers"]["rows"] else None,
    )


def _rows(pictures: Masks, palette: list[Color], last: str) -> list[dict[str, Any]]:
    """A row of pictures an image: photograph, truth, dense, pruned, engine, and where dense and engine differ."""
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(palette)] = palette
    rows = []
    for i, index in enumerate(pictures["index"]):
        image, label = pictures["images"][i], pictures["labels"][i]
        judged = label != IGNORE
        differs = (pictures["dense"][i] != pictures["engine"][i]) & judged
        marked = (image * 0.35 + 150).astype(np.uint8)
        marked[differs] = (220, 20, 60)
        shown = [("image", image), ("truth", colors[label])]
        shown += [
            (last if name == "engine" else name, colors[pictures[name][i]]) for name in ("dense", "pruned", "engine")
        ]
        shown += [(f"dense ≠ {last}: {100 * differs.sum() / max(judged.sum(), 1):.1f} %", marked)]
        rows.append({"index": int(index), "cells": [(name, png(array)) for name, array in shown]})
    return rows


def png(image: np.ndarray) -> str:
    """A data URI of an RGB image."""
    held = io.BytesIO()
    Image.fromarray(image).save(held, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()
