"""The accuracy/latency front of a search: its rows, which of them nothing else beats, and the page."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape

from edgeprune.deploy import plots


def row(report: dict[str, Any], status: int) -> dict[str, Any]:
    """What a front needs of a run's report. `ms` is None where nothing was measured."""
    latency, speed, metric = report["engine"]["latency"], report["speedup"], report["metric"]
    key, (more, more_name) = metric["key"], metric["more"]
    return {
        "method": report["method"], "metric": metric["name"], "score": report["engine"][key], "more": report["engine"][more],
        "more_name": more_name,
        "ms": latency["p50"] if latency else None, "share": 1 / speed["median"] if speed["median"] else None,
        "macs": report["pruned"]["macs"], "macs_share": report["pruned"]["macs"] / report["dense"]["macs"],
        "params": report["pruned"]["params"], "dense_score": report["attribution"][0][key], "met": report["budget"]["met"],
        "budget": {k: report["budget"][k] for k in ("kind", "limit", "achieved")}, "status": status,
    }  # fmt: skip


def mark(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with `front`: no other one is both better and at most as slow. Times are compared as shares of dense.

    Where some were measured and some not (a worker without the device), those that were not are on no front.
    """
    cost = plots.cost_of(rows)

    def beaten(r: dict[str, Any]) -> bool:
        for other in rows:
            if other is r or other[cost] is None:
                continue
            no_worse = other["score"] >= r["score"] and other[cost] <= r[cost]
            if no_worse and (other["score"] > r["score"] or other[cost] < r[cost]):
                return True
        return False

    return [r | {"front": r[cost] is not None and not beaten(r)} for r in rows]


def page(title: str, rows: list[dict[str, Any]], failed: dict[str, str]) -> str:
    """The self-contained page."""
    environment = Environment(
        loader=PackageLoader("edgeprune.deploy"), autoescape=select_autoescape(), trim_blocks=True
    )
    measured = plots.cost_of(rows) == "share"
    unmeasured = [r["point"] for r in rows if r["share"] is None] if measured else []
    return environment.get_template("search.html").render(
        measured=measured, unmeasured=unmeasured, title=title, rows=sorted(rows, key=lambda r: r["share"] or r["macs_share"]), failed=failed,
        plot=plots.front(rows) if rows else "",
    )  # fmt: skip
