"""Budgets met in measured milliseconds: four networks, three precisions, three budgets; resumable.

    python benchmarks/latency_budget/budgets.py [NETWORK …] [--precision f32]

Writes met.json and met.md beside this file. Delete a row of the JSON to have it measured again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import networks  # noqa: E402

from edgeprune.errors import BudgetError  # noqa: E402
from edgeprune.files import read_json, write_atomic, write_json  # noqa: E402
from edgeprune.profile.macs import count_macs  # noqa: E402
from edgeprune.prune import worth  # noqa: E402
from edgeprune.prune.allocate import floors, select  # noqa: E402
from edgeprune.prune.blocks import find_blocks  # noqa: E402
from edgeprune.prune.cost import Term, Widths  # noqa: E402
from edgeprune.prune.cutter import Cutter  # noqa: E402
from edgeprune.prune.plan import make_plan  # noqa: E402
from edgeprune.prune.removal import knapsack_with_removal  # noqa: E402
from edgeprune.prune.surgery import shrink  # noqa: E402
from edgeprune.stages import latency  # noqa: E402
from edgeprune.stages.run import Run  # noqa: E402

OUT = HERE / "met.json"
BUDGETS = ("0.7x", "0.5x", "0.3x")


def one(name: str, precision: str, home: Path, rows: dict[str, Any]) -> None:
    """All budgets of a network at a precision; the profile is shared."""
    facts: dict[str, Any] = {}
    profiling = 0.0
    for budget in BUDGETS:
        key = f"{name} {precision} {budget}"
        if key in rows:
            continue
        run = networks.make(name, precision, budget, home)
        if not facts:
            began = time.perf_counter()
            networks.profiled(run)
            facts, profiling = run.facts["profile"], time.perf_counter() - began
        run.facts["profile"] = facts
        row = {"network": name, "precision": precision, "found": facts["precision_found"], "budget": budget}
        row |= {k: facts[k] for k in ("dense_ms", "fixed_ms", "step", "head", "operators_measured")}
        rows[key] = row | {"profile_seconds": profiling} | loop(run)
        write_json(OUT, rows)
        write_atomic(HERE / "met.md", table(rows))
        print(key, rows[key].get("used"), rows[key].get("engines_built"), rows[key].get("cannot"), flush=True)


def loop(run: Run) -> dict[str, Any]:
    """The closed loop on L2 scores."""
    net, graph, scores = networks.parts(run)
    step = run.facts["profile"]["step"]
    options = worth.candidates(graph.widths(), floors(scores, 0.05, step), step)
    blocks = dict.fromkeys(find_blocks(graph), 0.0)
    values, solving = worth.by_score(scores, options), [0.0]

    def allocate(predictor: Any, limit: float) -> Widths:
        began = time.perf_counter()
        found = knapsack_with_removal(graph, values, [Term(*t) for t in predictor.terms(limit)], limit, blocks)
        solving.append(time.perf_counter() - began)
        return found

    began = time.perf_counter()
    row: dict[str, Any] = {}
    try:
        widths, said = latency.meet(run, Cutter(net, graph, scores), allocate)
        small = shrink(net, make_plan(net, graph, select(scores, widths)))
        row |= {k: said[k] for k in ("limit", "achieved", "ci95", "used", "engines_built")}
        engines = read_json(run.folder / "prune" / "latency.json")["engines"]
        row["history"] = [{k: t[k] for k in ("predicted", "ms", "low", "high", "met")} for t in engines]
        row["macs_ratio"] = count_macs(small, run.recipe.data.size) / count_macs(net, run.recipe.data.size)
    except BudgetError as error:
        row["cannot"] = str(error)
    return row | {"loop_seconds": time.perf_counter() - began, "solve_seconds": max(solving)}


def table(rows: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        "| network | precision (ran) | budget | dense ms | limit ms | first predicted | measured [95 %] | used | MACs | "
        "engines | loop s | solver s | profile s |",
        "|" + "---|" * 13,
    ]
    for r in rows.values():
        head = f"| {r['network']} | {r['precision']} ({r['found']}) | {r['budget']} | {r['dense_ms']:.2f} |"
        tail = f" {r['loop_seconds']:.0f} | {r['solve_seconds']:.2f} | {r['profile_seconds']:.0f} |"
        if "cannot" in r:
            lines.append(f"{head} | | {r['cannot']} | | | |{tail}")
            continue
        low, high = r["ci95"]
        lines.append(
            f"{head} {r['limit']:.3f} | {r['history'][0]['predicted']:.3f} | {r['achieved']:.3f} [{low:.3f}, {high:.3f}] | "
            f"{r['used']:.1%} | {r['macs_ratio']:.3f}x | {r['engines_built']} |{tail}"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(networks.NETWORKS))
    parser.add_argument("--precision", action="append", help="default: f32, bf16 and int8")
    args = parser.parse_args()
    torch.set_flush_denormal(True)
    done = read_json(OUT) if OUT.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        for network in args.networks:
            for precision in args.precision or ("f32", "bf16", "int8"):
                one(network, precision, Path(folder), done)
    print(table(done))
