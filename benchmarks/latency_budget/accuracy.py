"""At equal measured latency, which way of sharing the budget out keeps the most? Same scores, same fine-tuning; resumable.

    python benchmarks/latency_budget/accuracy.py [--seeds 3] [--budget 0.5x] [--recipe quickstart] [--name NAME] [--set key=value …]

Every row goes through the closed loop, so each network's engine was measured within the same latency budget:

    knapsack     edgeprune's default: the device's table, values by sensitivity behind compensation
    judged       the same with prune.contest_steps: values by sensitivity after a short recovery, and a contest
    score        the device's table, values by the criterion's scores
    macs         the default's values, but the costs are MACs, as a MACs budget would share it out
    macs8, …     the same, widths rounded to 8, 16, 32 by rule
    uniform      every group keeps the same share

Writes accuracy-<name>-<budget>.json and .md beside this file. `--again` only times the engines of all rows of a seed once more, in one
sitting and in turns (column `again`): the loops met their budgets at different hours.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgeprune import progress
from edgeprune.errors import BudgetError
from edgeprune.files import hash_obj, read_json, write_atomic, write_json
from edgeprune.measure.bootstrap import time_median
from edgeprune.measure.race import in_turns
from edgeprune.prune import cost, worth
from edgeprune.prune.allocate import allocate as by_rank
from edgeprune.prune.allocate import floors
from edgeprune.prune.artefact import save_pruned
from edgeprune.prune.blocks import find_blocks
from edgeprune.prune.cost import Term, Widths, total
from edgeprune.prune.cutter import Cutter
from edgeprune.prune.groups import find_groups
from edgeprune.prune.knapsack import knapsack
from edgeprune.prune.removal import knapsack_with_removal
from edgeprune.recipe import Recipe, load_recipe
from edgeprune.stages import finetune, latency, load, profile, scoring, sharing
from edgeprune.stages.deploy import device
from edgeprune.stages.run import Run
from edgeprune.target import load_target

HERE = Path(__file__).parent
CONTEST = 120  # steps a contestant
WAYS = ("knapsack", "judged", "score", "macs", "macs8", "macs16", "macs32", "uniform")


def allocator(run: Run, way: str, cutter: Cutter) -> tuple[Any, Any, Any]:
    """(allocate(predictor, limit in ms), the same for an engine to learn from, what the widths are worth by measured sensitivity)."""
    graph, scores = cutter.graph, cutter.scores
    dense, floor = graph.widths(), run.recipe.prune.min_keep
    step = {"macs": 1, "macs8": 8, "macs16": 16, "macs32": 32}.get(way, run.facts["profile"]["step"])
    options = worth.candidates(dense, floors(scores, floor, step), step)

    found = measured_once(run, cutter, find_blocks(graph))
    values = worth.by_score(scores, options) if way == "score" else worth.by_sensitivity(found.curves, scores, options)
    macs = cost.macs(graph)
    whole = total(macs)(dense)

    if way in ("knapsack", "judged"):
        sharing.sensitivity = measured_once
        return *sharing.under_latency(run, cutter, step), valued(found, scores, dense)

    def allocate(predictor: Any, limit: float) -> Widths:
        if way == "uniform":
            return by_rank(scores, predictor, limit, how="uniform", min_keep=floor, step=step)
        if not way.startswith("macs"):
            terms = [Term(*t) for t in predictor.terms(limit)]
            return knapsack_with_removal(graph, values, terms, limit, found.removed)
        low, high, best = 0.0, 1.0, None
        for _ in range(12):  # the most MACs whose widths are predicted to meet the latency
            middle = (low + high) / 2
            try:
                widths = knapsack(values, macs, middle * whole)
            except BudgetError:
                low = middle
                continue
            if predictor(widths) <= limit:
                low, best = middle, widths
            else:
                high = middle
        if best is None:
            raise BudgetError("budget: no MACs budget meets it")
        return best

    return allocate, None, valued(found, scores, dense)


def valued(found: worth.Losses, scores: Any, dense: Widths) -> Any:
    """widths -> minus the sum of the losses that stay."""
    measured = worth.by_sensitivity(
        found.after(found.power), scores, {n: list(range(1, s + 1)) for n, s in dense.items()}
    )
    return lambda widths: sum(measured[n][w] for n, w in widths.items() if w)


_measure = sharing.sensitivity


def measured_once(run: Run, *args: Any) -> worth.Losses:
    """The sensitivity, the same for all ways that measure alike."""
    kind = f"losses, contest of {run.recipe.prune.contest_steps}"
    if kind not in run.kept:
        run.kept[kind] = _measure(run, *args)
    return run.kept[kind]


def one(run: Run, way: str) -> dict[str, Any]:
    """Prune one way, fine-tune, judge."""
    run.key = hash_obj([way, run.recipe.seed, run.recipe.budget.latency])  # of the notes that a killed row goes on from
    net = load.dense(run)
    graph = find_groups(net, load.example(run), run.recipe.prune.never)
    if "scores" not in run.kept:
        p = run.recipe.prune
        run.kept["scores"] = scoring.score(run, load.dense(run), graph, scoring.Spent(), p.args, p.sparsity)
    scores = run.kept["scores"]
    if "moments" not in run.kept:
        run.kept["moments"] = scoring.moments(run, load.dense(run), graph)
    cutter = Cutter(net, graph, scores, run.kept["moments"])
    allocate, scout, value = allocator(run, way, cutter)
    began = time.perf_counter()
    try:
        widths, said = latency.meet(run, cutter, allocate, scout)
    except BudgetError as error:
        return {"cannot": str(error)}
    looping = time.perf_counter() - began
    plan = cutter.plan(widths)
    small = cutter.small(plan, load.example(run))
    save_pruned(run.folder / "prune", small, plan, load.network_spec(run))
    for old in (run.folder / "finetune").glob("*"):
        old.unlink()
    facts = finetune.finetune(run)
    return {
        "miou": facts["miou"], "miou_cut": facts["miou_cut"], "kept": value(widths), "used": said["used"],
        "ms": said["achieved"], "limit": said["limit"], "engines": said["engines_built"],
        "macs": facts["macs"] / run.facts["load"]["macs"], "loop_seconds": looping, "widths": widths,
    }  # fmt: skip


def again(run: Run, rows: dict[str, Any]) -> None:
    """Time the engines of these rows anew, in one sitting and in turns; `again` is [share, low, high] of the dense engine's time."""
    net = load.dense(run)
    graph = find_groups(net, load.example(run), run.recipe.prune.never)
    cutter = Cutter(net, graph, {g.name: -np.arange(g.size, dtype=float) for g in graph.groups})
    home, image = run.folder / "again", load.dataset(run, "val")[0][0][None]
    dense = profile.engine_of(run, net, home, "dense")
    takes = {}
    for name, row in rows.items():
        small = cutter.small(cutter.plan(row["widths"]), load.example(run))
        made = profile.engine_of(run, small, home, name.replace(" ", "-"))
        takes[name] = lambda n, made=made: device(run).pairs(dense, made, image, n)
    for name, shares in in_turns(takes).items():
        rows[name]["again"] = time_median(np.array(shares))
        print(name, rows[name]["again"], flush=True)


def table(rows: dict[str, Any], dense: dict[str, float]) -> str:
    """Markdown: mean and spread over seeds."""
    lines = [
        "| way | mIoU, mean ± sd | before fine-tuning | -KL that stays (sum) | of the budget | again | MACs | seeds |", "|" + "---|" * 8,
        f"| dense | {_spread(list(dense.values()))} | | | | | 1.000x | {len(dense)} |",
    ]  # fmt: skip
    for way in WAYS:
        mine = [r for k, r in rows.items() if k.split()[0] == way]
        good = [r for r in mine if "miou" in r]
        if not good:
            if mine:
                lines.append(f"| {way} | {mine[0]['cannot']} | | | | | | {len(mine)} |")
            continue
        mean = {k: float(np.mean([r[k] for r in good])) for k in ("miou", "miou_cut", "kept", "used", "macs")}
        lines.append(
            f"| {way} | {_spread([r['miou'] for r in good])} | {100 * mean['miou_cut']:.2f} | {mean['kept']:.2f} | "
            f"{mean['used']:.1%} | {_again(good)} | {mean['macs']:.3f}x | {len(good)} of {len(mine)} |"
        )
    return "\n".join(lines) + "\n"


def _spread(values: list[float]) -> str:
    """Mean and the sample's standard deviation, in points."""
    spread = f" ± {100 * float(np.std(values, ddof=1)):.2f}" if len(values) > 1 else ""
    return f"{100 * float(np.mean(values)):.2f}{spread}"


def save(out: Path, found: dict[str, Any]) -> None:
    """The rows, and the table that is made of them."""
    write_json(out, found)
    write_atomic(out.with_suffix(".md"), table(found["rows"], found["dense"]))


def _again(rows: list[dict[str, Any]]) -> str:
    return "" if any("again" not in r for r in rows) else f"{np.mean([r['again'][0] for r in rows]):.3f}x"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", default="0.5x")
    parser.add_argument("--recipe", default="quickstart")
    parser.add_argument(
        "--name", help="of the table, where the settings change what the recipe is about; default: the recipe's"
    )
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--again", action="store_true", help="time all rows' engines once more, and train nothing")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/latency-accuracy"))
    args = parser.parse_args()
    torch.set_flush_denormal(True)
    name = args.name or args.recipe
    out = HERE / f"accuracy-{name}-{args.budget}.json"
    found = read_json(out) if out.exists() else {"dense": {}, "rows": {}}
    for seed in range(args.seeds):
        ways = [w for w in args.ways.split(",") if f"{w} {seed}" not in found["rows"]]
        if not ways and not args.again:
            continue
        recipe: Recipe = load_recipe(args.recipe, [*args.set, f"seed={seed}", f"budget.latency={args.budget}"])
        run = Run(recipe, load_target("cpu"), args.runs_dir / f"{name}-{seed}", progress.console())
        torch.manual_seed(seed)
        facts = run.folder / "dense.json"
        if not facts.exists():
            write_json(facts, load.load(run))
        run.facts["load"] = read_json(facts)
        found["dense"][str(seed)] = run.facts["load"]["miou"]
        run.facts["profile"] = profile.profile(run)
        if args.again:
            again(run, {k: r for k, r in found["rows"].items() if k.endswith(f" {seed}") and "widths" in r})
        for way in () if args.again else ways:
            steps = {"contest_steps": CONTEST if way == "judged" else None}
            run.recipe = recipe.model_copy(update={"prune": recipe.prune.model_copy(update=steps)})
            found["rows"][f"{way} {seed}"] = one(run, way)
            print(way, seed, found["rows"][f"{way} {seed}"].get("miou"), flush=True)
            save(out, found)
    save(out, found)
    print(table(found["rows"], found["dense"]))


if __name__ == "__main__":
    sys.exit(main())
