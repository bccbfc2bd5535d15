"""The table of a comparison: one row a method, means over seeds with their spread, what it cost and what it lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

GIVES = 6  # columns of what a method gives, the first; then what it costs
PARTS = ("scoring", "sharing", "tuning")  # of the time spent, see `notes`


def headings(rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """The columns' names, in the words of the runs' task."""
    name, more = (rows[0]["metric"], rows[0]["more_name"]) if rows else ("metric", "")
    return (
        "method", f"engine's {name}", "± sd", "to dense", "worst class", more, "parameters", "MACs", "ms", "of dense",
        "budget used", "met", "minutes", "of them ¹", "steps ²",
    )  # fmt: skip


def row(report: dict[str, Any]) -> dict[str, Any]:
    """What the table needs of a run's report; scores and losses in points, `ms` None where nothing was measured."""
    engine, dense, pruned, metric = report["engine"], report["dense"], report["pruned"], report["metric"]
    key, each, (more, more_name) = metric["key"], metric["per_class"], metric["more"]
    first = report["attribution"][0]
    worst, loss = worst_class(first.get(each, dense[each]), engine[each])
    latency, speed, budget = engine["latency"], report["speedup"], report["budget"]
    return {
        "method": report["method"], "metric": metric["name"], "more_name": more_name, "score": 100 * engine[key],
        "dense_score": 100 * first[key], "worst_class": worst, "worst_class_loss": loss,
        "more": 100 * engine[more],
        "params": pruned["params"], "macs": pruned["macs"], "macs_share": pruned["macs"] / dense["macs"],
        "ms": latency["p50"] if latency else None, "share": 1 / speed["median"] if speed["median"] else None,
        "met": budget["met"], "used": budget["achieved"] / budget["limit"], "engines_built": budget["engines_built"],
        "gates_failed": [g["name"] for g in report["gates"] if not g["passed"]],
        **_spent(report),
        "own_steps": report["training_steps"]["prune"], "judging_steps": report["training_steps"]["judging"],
        "tuning_steps": report["training_steps"]["finetune"],
    }  # fmt: skip


def worst_class(dense: dict[str, float | None], engine: dict[str, float | None]) -> tuple[str, float]:
    """The class that loses most between the dense network and the engine, and the points that it loses."""
    lost = {n: 100 * (d - e) for n, d in dense.items() if d is not None and (e := engine.get(n)) is not None}
    name = max(lost, key=lambda n: lost[n])
    return name, lost[name]


def _spent(report: dict[str, Any]) -> dict[str, float]:
    """Seconds behind the dense network, by part; trainings between two cuts count as tuning."""
    stages = {s["name"]: s["seconds"] for s in report["stages"]}
    scoring, between = report["scoring"]["scoring_seconds"], report["scoring"].get("between_seconds", 0.0)
    return {
        "seconds": stages["prune"] + stages["finetune"], "scoring": scoring,
        "sharing": max(0.0, stages["prune"] - scoring - between), "tuning": stages["finetune"] + between,
    }  # fmt: skip


_MEANS = (
    "score", "dense_score", "more", "params", "macs", "macs_share", "used", "seconds", *PARTS,
    "own_steps", "judging_steps", "tuning_steps",
)  # fmt: skip


def summary(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row an entry, the best first; the spread is the sample's standard deviation, None for a single run."""
    rows = []
    for name in dict.fromkeys(r["entry"] for r in runs):
        mine = [r for r in runs if r["entry"] == name]
        mean = {k: float(np.mean([r[k] for r in mine])) for k in _MEANS}
        times = {
            k: None if any(r[k] is None for r in mine) else float(np.mean([r[k] for r in mine]))
            for k in ("ms", "share")
        }
        worst = max(mine, key=lambda r: r["worst_class_loss"])  # of any seed: means would be of different classes
        spread = float(np.std([r["score"] for r in mine], ddof=1)) if len(mine) > 1 else None
        rows.append(
            {"entry": name, "gates_failed": sorted({g for r in mine for g in r["gates_failed"]}), **{k: mine[0][k] for k in ("method", "metric", "more_name")}, **mean, **times, **{k: worst[k] for k in ("worst_class", "worst_class_loss")}, "spread": spread,
             "runs": len(mine), "met": sum(r["met"] is True for r in mine)}
        )  # fmt: skip
    return sorted(rows, key=lambda r: -r["score"])


def cells(r: dict[str, Any]) -> list[str]:
    """A row as text, in the order of `headings`."""
    return [
        r["entry"], f"{r['score']:.2f}", "-" if r["spread"] is None else f"{r['spread']:.2f}",
        f"{r['score'] - r['dense_score']:+.2f}", f"{r['worst_class']} {-r['worst_class_loss']:+.1f}", f"{r['more']:.2f}",
        f"{r['params'] / 1e6:.3f} M", f"{r['macs_share']:.3f}x", "-" if r["ms"] is None else f"{r['ms']:.3f}",
        "-" if r["share"] is None else f"{r['share']:.3f}x", f"{r['used']:.1%}", f"{r['met']} of {r['runs']}",
        f"{r['seconds'] / 60:.1f}", " + ".join(f"{r[part] / 60:.1f}" for part in PARTS),
        f"{r['own_steps']:.0f} + {r['judging_steps']:.0f} + {r['tuning_steps']:.0f}",
    ]  # fmt: skip


def notes(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What the table's reader has to know: the columns that explain themselves least, and which rows do not compare."""
    told = [
        "¹ scoring (its own training in it) + sharing the budget out (engines built for it in it) + fine-tuning",
        "² optimiser steps: of the network before it is cut + of cut networks that only served to judge widths + fine-tuning's",
    ]
    if len({r["runs"] for r in rows}) > 1:
        short = ", ".join(r["entry"] for r in rows if r["runs"] < max(o["runs"] for o in rows))
        told.append(f"fewer seeds than the others have: {short}; their means are of other dense networks")
    steps = [r["own_steps"] + r["tuning_steps"] for r in rows]
    if steps and max(steps) > min(steps):
        told.append(
            f"between {min(steps):.0f} and {max(steps):.0f} steps behind the dense network: some were trained for longer "
            "(--equal-steps fine-tunes the others for longer)"
        )
    told += [f"{r['entry']}: gates failed: {', '.join(r['gates_failed'])}" for r in rows if r["gates_failed"]]
    if short := [r["entry"] for r in rows if r["met"] < r["runs"]]:
        told.append(f"the budget was not always met, or not measured: {', '.join(short)}")
    used = [r["used"] for r in rows]
    if used and max(used) - min(used) > 0.03:
        told.append(f"between {min(used):.1%} and {max(used):.1%} of the budget is used: not equal to within 3 %")
    return told


def told_unlike(differing: Sequence[str]) -> str:
    """What is said where the entries differ in more than their methods."""
    return f"the recipes differ in {', '.join(differing)}: this is no comparison of methods alone"


def markdown(rows: Sequence[dict[str, Any]], failed: dict[str, str], differing: Sequence[str] = ()) -> str:
    """The table, what it does not say by itself, and what failed."""
    named = headings(rows)
    lines = ["| " + " | ".join(named) + " |", "|---" + "|---:" * (len(named) - 1) + "|"]
    lines += ["| " + " | ".join(cells(r)) + " |" for r in rows]
    lines += [f"\n{told}" for told in notes(rows)]
    lines += [f"\n**{told_unlike(differing)}**"] if differing else []
    lines += [f"\n{name} failed: {why}" for name, why in failed.items()]
    return "\n".join(lines) + "\n"
