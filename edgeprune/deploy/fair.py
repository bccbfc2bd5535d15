"""The table of a comparison: one row a method, means over seeds with their spread, what it cost and what it lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

HEADINGS = (
    "method", "engine's mIoU", "± sd", "to dense", "worst class", "boundary IoU", "parameters", "MACs", "ms", "of dense",
    "minutes", "runs", "budget",
)  # fmt: skip


def row(report: dict[str, Any]) -> dict[str, Any]:
    """What the table needs of a run's report; mIoU and losses in points, `ms` None where nothing was measured."""
    engine, dense, pruned = report["engine"], report["dense"], report["pruned"]
    base = report["attribution"][0]["miou"]
    lost = {
        name: 100 * (dense["iou_per_class"][name] - iou)
        for name, iou in pruned["iou_per_class"].items()
        if iou is not None and dense["iou_per_class"][name] is not None
    }
    worst = max(lost, key=lambda n: lost[n])
    latency, speed = engine["latency"], report["speedup"]
    return {
        "method": report["method"], "miou": 100 * engine["miou"], "dense_miou": 100 * base,
        "worst_class": worst, "worst_class_loss": lost[worst], "boundary_iou": 100 * engine["boundary_iou"],
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
        keys = ("miou", "dense_miou", "worst_class_loss", "boundary_iou", "params", "macs", "macs_share", "seconds")
        mean = {k: float(np.mean([r[k] for r in mine])) for k in keys}
        times = {
            k: None if any(r[k] is None for r in mine) else float(np.mean([r[k] for r in mine]))
            for k in ("ms", "share")
        }
        worst = max(mine, key=lambda r: r["worst_class_loss"])["worst_class"]
        spread = float(np.std([r["miou"] for r in mine], ddof=1)) if len(mine) > 1 else None
        rows.append(
            {"entry": name, "method": mine[0]["method"], **mean, **times, "worst_class": worst, "spread": spread,
             "runs": len(mine), "met": sum(r["met"] is True for r in mine)}
        )  # fmt: skip
    return sorted(rows, key=lambda r: -r["miou"])


def cells(r: dict[str, Any]) -> list[str]:
    """A row as text, in the order of `HEADINGS`."""
    return [
        r["entry"], f"{r['miou']:.2f}", "-" if r["spread"] is None else f"{r['spread']:.2f}",
        f"{r['miou'] - r['dense_miou']:+.2f}", f"{r['worst_class']} {-r['worst_class_loss']:+.1f}", f"{r['boundary_iou']:.2f}",
        f"{r['params'] / 1e6:.3f} M", f"{r['macs_share']:.3f}x", "-" if r["ms"] is None else f"{r['ms']:.3f}",
        "-" if r["share"] is None else f"{r['share']:.3f}x", f"{r['seconds'] / 60:.1f}", str(r["runs"]),
        f"{r['met']} of {r['runs']}",
    ]  # fmt: skip


def markdown(rows: Sequence[dict[str, Any]], failed: dict[str, str]) -> str:
    """The table, and what failed."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "|---" + "|---:" * (len(HEADINGS) - 1) + "|"]
    lines += ["| " + " | ".join(cells(r)) + " |" for r in rows]
    lines += [f"\n{name} failed: {why}" for name, why in failed.items()]
    return "\n".join(lines) + "\n"
