"""The report as one self-contained HTML page: nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, select_autoescape
from PIL import Image

from edgeprune.data.dataset import Color
from edgeprune.deploy import plots
from edgeprune.deploy.table import judged_by, untried

Pictures = dict[str, np.ndarray]


def render(report: dict[str, Any], pictures: Pictures, palette: list[Color]) -> str:
    """The page of a report; `pictures` as `verify/pictures.npz` holds them."""
    environment = Environment(
        loader=PackageLoader("edgeprune.deploy"), autoescape=select_autoescape(), trim_blocks=True
    )
    classes = report["data"]["classes"]
    return environment.get_template("report.html").render(
        r=report,
        m=report["metric"],
        judged_by=judged_by(report["dense"]["evaluate"]) if "evaluate" in report["dense"] else None,
        untried=untried(told) if (told := report["precisions"]) and not told["candidates"] else None,
        rows=_rows(pictures),
        legend=[(name, "#" + bytes(color).hex()) for name, color in zip(classes, palette, strict=True)],
        classes_plot=plots.classes(report),
        widths_plot=plots.widths(report),
        latency_plot=plots.latency(report) if report["engine"]["measured"] else None,
        stages_plot=plots.stages(report),
        layers_plot=plots.layers(report) if report["layers"] and report["layers"]["rows"] else None,
    )


def _rows(pictures: Pictures) -> list[dict[str, Any]]:
    """A row of pictures an image: the image, the truth, what each network says of it."""
    rows = []
    for index, captions, cells in zip(pictures["index"], pictures["captions"], pictures["pictures"], strict=True):
        shown = [(str(caption), png(cell)) for caption, cell in zip(captions, cells, strict=True)]
        rows.append({"index": int(index), "cells": shown})
    return rows


def png(image: np.ndarray) -> str:
    """A data URI of an RGB image."""
    held = io.BytesIO()
    Image.fromarray(image).save(held, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()
