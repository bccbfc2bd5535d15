"""The latency table as pictures: time against channels, a plot an operator signature."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape

from edgeprune.deploy import plots


def page(path: str, rows: list[dict[str, Any]], curves: list[list[tuple[int, int, float]]]) -> str:
    """The self-contained page.

    Args:
        rows: of `profile.table.Table.known`: fingerprint, backend, precision, signature, count.
        curves: (inputs, outputs, ms) of each row.
    """
    shown = [{**row, "plot": plots.staircase(curve)} for row, curve in zip(rows, curves, strict=True) if len(curve) > 1]
    environment = Environment(
        loader=PackageLoader("edgeprune.deploy"), autoescape=select_autoescape(), trim_blocks=True
    )
    return environment.get_template("staircases.html").render(path=path, rows=shown)
