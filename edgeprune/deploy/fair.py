"""The table of a comparison: one row a method, means over seeds with their spread, what it cost and what it lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def headings(rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """The columns' names, in the words of the runs' task."""
    name, more = (rows[0]["metric"], rows[0]["more_name"]) if rows else ("metric", "")
    return (
        "method", f"engine's {name}", "± sd", "to dense", "worst class", more, "parameters", "MACs", "ms", "of dense",
        "minutes", "runs", "budget",
    )  # fmt: skip


def row(report: dict[str, Any]) -> dict[str, Any]:
    """What the table needs of a run's report; scores and losses in points, `ms` None where nothing was measured."""
    engine, dense, pruned, metric = report["engine"], report["dense"], report["pruned"], report["metric"]
    key, each, (more, more_name) = metric["key"], metric["per_class"], metric["more"]
    lost = {
        name: 100 * (dense[each][name] - value)
        for name, value in pruned[each].items()
        if value is not None and dense[each][name] is not None
    }
    worst = max(lost, key=lambda n: lost[n])
    latency, speed = engine["latency"], report["speedup"]
    return {
        "method": report["method"], "metric": metric["name"], "more_name": more_name, "score": 100 * engine[key],
        "dense_score": 100 * report["attribution"][0][key], "worst_class": worst, "worst_class_loss": lost[worst],
        "more": 100 * engine[more],
        "params": pruned["params"], "macs": pruned["macs"], "macs_share": pruned["macs"] / dense["macs"],
        "ms": latency["p50"] if latency else None, "share": 1 / speed["median"] if speed["median"] else None,
        "met": report["budget"]["met"],
        "seconds": sum(s["seconds"] for s in report["stages"] if s["name"] in ("prune", "finetune")),
    }  # fmt: skip


def summary(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row an entry, the best first; the spread is the sample's standard deviation, None for a single run."""
    rows = []
    for name in dict.fromkeys(r["entry"] for r in runs):
        mine = [r for r in runs if r["entry"] == name]
        keys = ("score", "dense_score", "worst_class_loss", "more", "params", "macs", "macs_share", "seconds")
        mean = {k: float(np.mean([r[k] for r in mine])) for k in keys}
        times = {
            k: None if any(r[k] is None for r in mine) else float(np.mean([r[k] for r in mine]))
            for k in ("ms", "share")
        }
        worst = max(mine, key=lambda r: r["worst_class_loss"])["worst_class"]
        spread = float(np.std([r["score"] for r in mine], ddof=1)) if len(mine) > 1 else None
        rows.append(
            {"entry": name, **{k: mine[0][k] for k in ("method", "metric", "more_name")}, **mean, **times, "worst_class": worst, "spread": spread,
             "runs": len(mine), "met": sum(r["met"] is True for r in mine)}
        )  # fmt: skip
    return sorted(rows, key=lambda r: -r["score"])


def cells(r: dict[str, Any]) -> list[str]:
    """A row as text, in the order of `headings`."""
    return [
        r["entry"], f"{r['score']:.2f}", "-" if r["spread"] is None else f"{r['spread']:.2f}",
        f"{r['score'] - r['dense_score']:+.2f}", f"{r['worst_class']} {-r['worst_class_loss']:+.1f}", f"{r['more']:.2f}",
        f"{r['params'] / 1e6:.3f} M", f"{r['macs_share']:.3f}x", "-" if r["ms"] is None else f"{r['ms']:.3f}",
        "-" if r["share"] is None else f"{r['share']:.3f}x", f"{r['seconds'] / 60:.1f}", str(r["runs"]),
        f"{r['met']} of {r['runs']}",
    ]  # fmt: skip


def markdown(rows: Sequence[dict[str, Any]], failed: dict[str, str]) -> str:
    """The table, and what failed."""
    named = headings(rows)
    lines = ["| " + " | ".join(named) + " |", "|---" + "|---:" * (len(named) - 1) + "|"]
    lines += ["| " + " | ".join(cells(r)) + " |" for r in rows]
    lines += [f"\n{name} failed: {why}" for name, why in failed.items()]
    return "\n".join(lines) + "\n"
