"""The latency table as pictures: time against channels, a plot an operator signature; and how far predictions were off."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape

from edgeprune.deploy import plots
from edgeprune.profile.predict import errors


def page(
    path: str, rows: list[dict[str, Any]], curves: list[list[tuple[int, int, float]]], engines: list[dict[str, Any]]
) -> str:
    """The self-contained page.

    Args:
        rows: of `profile.table.Table.known`: fingerprint, backend, precision, signature, count.
        curves: (inputs, outputs, ms) of each row.
        engines: of `Table.engines`.
    """
    shown = [{**row, "plot": plots.staircase(curve)} for row, curve in zip(rows, curves, strict=True) if len(curve) > 1]
    environment = Environment(
        loader=PackageLoader("edgeprune.deploy"), autoescape=select_autoescape(), trim_blocks=True
    )
    return environment.get_template("staircases.html").render(path=path, rows=shown, errors=judged(engines))


def judged(engines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the predictor was off by, a row a device, backend, precision and network; of engines that it had not seen."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for e in engines:
        if e["predicted_ms"] is not None:
            key = (_named(e["fingerprint"]), e["backend"], e["precision"], e["network"])
            groups.setdefault(key, []).append(e)
    names = ("device", "backend", "precision", "network")
    return [
        dict(zip(names, key, strict=True)) | errors([e["predicted_ms"] for e in found], [e["ms"] for e in found])
        for key, found in groups.items()
    ]


def _named(device: dict[str, Any]) -> str:
    """A device and how it is set, in words: two of one name are not the same."""
    gpu = device.get("gpu") or {}
    threads, governor = device.get("threads"), device.get("governor")
    words = [
        device.get("board"), device.get("cpu"), gpu.get("name") if isinstance(gpu, dict) else gpu, device.get("device"),
        f"{threads} threads" if threads else None, device.get("power_mode"), f"{governor} governor" if governor else None,
    ]  # fmt: skip
    return ", ".join(dict.fromkeys(str(w) for w in words if w)) or "unknown"
