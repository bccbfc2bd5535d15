"""Prune: score the channels, share the budget out, cut, and prove the cut; in rounds where the recipe says so."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import nn

from edgeprune.files import write_json
from edgeprune.profile.macs import count_macs, count_params
from edgeprune.prune import cost
from edgeprune.prune.artefact import save_pruned
from edgeprune.prune.channels import ChannelGraph
from edgeprune.prune.cost import Term, Widths, total
from edgeprune.prune.cutter import Cutter
from edgeprune.prune.groups import find_groups, grouped
from edgeprune.prune.plan import Plan, compose
from edgeprune.prune.proof import prove
from edgeprune.recipe import Budget, Recipe
from edgeprune.stages import load, notes, scoring, sharing
from edgeprune.stages.asked import in_units
from edgeprune.stages.fits import check_groups, kept_whole
from edgeprune.stages.run import Run
from edgeprune.train.recalibrate import disturbed


def prune(run: Run) -> dict[str, Any]:
    """Writes `prune/plan.json`, `prune/weights.safetensors`, `prune/widths.json`."""
    recipe, home = run.recipe, run.folder / "prune"
    net, example = load.dense(run), load.example(run)
    graph = find_groups(net, example, recipe.prune.never)
    check_groups(graph, recipe.prune.never)
    for line in kept_whole(graph):
        run.console.print(line, style="dim", markup=False, soft_wrap=True)
    spent = scoring.Spent()
    run.kept["judging_steps"] = 0
    dense, before = net, cut_rounds(run, net, graph, spent)
    net, rest = (
        (before.net, find_groups(before.net, example, recipe.prune.never, grouped(dense))) if before else (net, graph)
    )
    scores = scoring.score(run, net, rest, spent, recipe.prune.args, recipe.prune.sparsity)
    cutter = Cutter(net, rest, scores, scoring.moments(run, net, rest))
    widths, budget = _by_one(sharing.share_out, run, cutter, graph)
    plan = cutter.plan(widths)
    proof = prove(cutter.prepared(plan), rest, plan, example)
    small = cutter.small(plan, example)
    behind = sorted({*(before.disturbed if before else ()), *disturbed(net, small, example)})
    if before:
        plan = compose(dense, graph, before.plan, plan)
    save_pruned(home, small, plan, load.network_spec(run))
    _write_widths(run, graph, plan.widths, small)
    macs = count_macs(small, recipe.data.size)
    run.console.print(
        f"pruned: {len(graph.groups)} groups, {recipe.budget.kind} {budget['achieved'] / budget['dense']:.3f}x (limit "
        f"{budget['limit'] / budget['dense']:.3f}x), MACs {macs / run.facts['load']['macs']:.3f}x; scoring took "
        f"{spent.scoring:.1f} s; proof: {proof.silenced:.0e} silenced, {proof.folded:.0e} folded"
    )
    for old in home.rglob("*/checkpoint.pt"):  # the rounds' have served
        old.unlink(missing_ok=True)  # of several processes one is first
    return {
        "budget": {"kind": recipe.budget.kind, **budget},
        "macs": macs,
        "params": count_params(small, recipe.data.size),
        "scoring_seconds": spent.scoring,
        "criterion_seconds": spent.criterion,
        "training_seconds": spent.training,
        "between_seconds": spent.between,
        "training_steps": spent.steps,
        "judging_steps": run.kept["judging_steps"],
        "rounds": before.facts if before else [],
        "disturbed_norms": behind,
        "proof": {"silenced": proof.silenced, "folded": proof.folded},
    }


def heals_by(recipe: Recipe) -> tuple[str, ...]:
    """The recipe's keys by which pruning trains before it decides: where losses are measured, recovery and contest follow the
    fine-tuning's schedule."""
    measures = recipe.budget.is_latency or recipe.prune.allocate == "knapsack"
    keys = ("steps", "epochs", "accumulate", "lr", "optimizer", "autocast", "channels_last")
    return tuple(f"calibration.{key}" for key in keys) if measures else ()


def _write_widths(run: Run, graph: ChannelGraph, widths: Widths, small: nn.Module) -> None:
    """`widths.json`: every group before and after, what cannot be pruned and why, which convolutions have vanished."""
    modules = [op.module for op in graph.operations if op.signature is not None]
    removed: list[str] = []
    if gone := [n for n, w in widths.items() if not w]:
        run.console.print(f"removed whole: {', '.join(gone)}")
        left = {op.module for op in find_groups(small, load.example(run)).operations}  # what fed only them is dead, too
        removed = [m for m in modules if m not in left]
    table = [{"group": g.name, "before": g.size, "after": widths[g.name]} for g in graph.groups]
    content = {"widths": table, "unprunable": graph.unprunable, "convolutions": modules, "removed": removed}
    write_json(run.folder / "prune" / "widths.json", content)


@dataclass
class Cut:
    """What the rounds before the last cut have left."""

    net: nn.Module
    plan: Plan  # of the dense network
    facts: list[dict[str, float]]
    disturbed: set[str]  # norms behind what was cut


def _by_one(work: Callable[..., Any], *args: Any) -> Any:
    """The first process measures and decides; the others, whose devices may round differently, are told."""
    found = [work(*args) if PartialState().is_main_process else None]
    broadcast_object_list(found)
    return found[0]


def _widths(run: Run, cutter: Cutter, step: int, terms: list[Term], limit: float) -> Widths:
    """Of a round."""
    return sharing.allocator(run, cutter, step, removal=False)(terms, limit)


def cut_rounds(run: Run, dense: nn.Module, graph: ChannelGraph, spent: scoring.Spent) -> Cut | None:
    """Score, cut and train for each of `prune.rounds`; None where there are none. `dense` is left as it was."""
    recipe, example = run.recipe, load.example(run)
    if not recipe.prune.rounds:
        return None
    net, plan, facts, behind = copy.deepcopy(dense), None, [], set()
    terms_of = cost.COSTS[recipe.budget.kind]
    whole, step = total(terms_of(graph))(graph.widths()), recipe.prune.step or run.target.channel_step
    for number, part in enumerate(recipe.prune.rounds, start=1):
        rest = graph if number == 1 else find_groups(net, example, recipe.prune.never, grouped(dense))
        run.kept["round"] = number
        home = notes.home(run)
        args = recipe.prune.args if part.args is None else part.args
        scores = scoring.score(run, net, rest, spent, args, part.sparsity or recipe.prune.sparsity, home, number)
        cutter = Cutter(net, rest, scores, scoring.moments(run, net, rest))
        terms, limit = terms_of(rest), part.share * whole
        with in_units(Budget.model_validate({recipe.budget.kind: part.keep}), whole):
            widths = _by_one(_widths, run, cutter, step, terms, limit)
        cut = cutter.plan(widths)
        prove(cutter.prepared(cut), rest, cut, example)
        plan = cut if plan is None else compose(dense, graph, plan, cut)
        small = cutter.small(cut, example)
        behind |= set(disturbed(net, small, example))
        net = small
        if part.finetune is not None:
            before = spent.training
            scoring.teach(run, net, part.finetune, home / "finetune", number, load.hooks(run), spent, f"round {number}")
            spent.between += spent.training - before
        achieved = total(terms)(widths) / whole
        facts.append({"limit": part.share, "achieved": achieved})
        run.console.print(f"round {number}: {recipe.budget.kind} {achieved:.3f}x (limit {part.share:.3f}x)")
    assert plan is not None
    del run.kept["round"]
    return Cut(net, plan, facts, behind)
