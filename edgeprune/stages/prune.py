"""Prune: score the channels, share the budget out, cut, and prove the cut; in rounds where the recipe says so."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import nn

from edgeprune import models
from edgeprune.data.transforms import normalised
from edgeprune.errors import RecipeError
from edgeprune.files import write_json
from edgeprune.profile.macs import count_macs, count_params
from edgeprune.progress import Progress
from edgeprune.prune import cost, worth
from edgeprune.prune.allocate import allocate as by_rank
from edgeprune.prune.allocate import floors, select
from edgeprune.prune.artefact import save_pruned
from edgeprune.prune.cost import Term, Widths, total
from edgeprune.prune.groups import ChannelGraph, find_groups
from edgeprune.prune.knapsack import knapsack
from edgeprune.prune.plan import Plan, compose, make_plan
from edgeprune.prune.proof import prove
from edgeprune.prune.surgery import fold_constants
from edgeprune.stages import latency, load, scoring
from edgeprune.stages.run import Run
from edgeprune.train.loop import Hooks
from edgeprune.train.recalibrate import recalibrate

Allocator = Callable[[list[Term], float, int], Widths]


def prune(run: Run) -> dict[str, Any]:
    """Writes `prune/plan.json`, `prune/weights.safetensors`, `prune/widths.json`."""
    recipe, home = run.recipe, run.folder / "prune"
    net, example = load.dense(run), load.example(run)
    graph = find_groups(net, example, recipe.prune.never)
    if not graph.groups:
        raise RecipeError("prune.never: leaves no channel that can be pruned")
    spent = scoring.Spent()
    dense, before = net, cut_rounds(run, net, graph, spent)
    net, rest = (before.net, find_groups(before.net, example, recipe.prune.never)) if before else (net, graph)
    scores = scoring.score(run, net, rest, spent, recipe.prune.args, recipe.prune.sparsity)
    found = [
        _allocate(run, net, rest, scores, graph)
        if PartialState().is_main_process or not recipe.budget.is_latency
        else None
    ]
    if recipe.budget.is_latency:  # one process builds and measures, the others cut as it says
        broadcast_object_list(found)
    assert found[0] is not None
    widths, budget = found[0]
    plan = make_plan(net, rest, select(scores, widths))
    proof = prove(net, rest, plan, example)
    small, _ = fold_constants(net, rest, plan, example)
    if before:
        plan = compose(dense, graph, before.plan, plan)
    save_pruned(home, small, plan, load.network_spec(run))
    table = [{"group": g.name, "before": g.size, "after": len(plan.keep[g.name])} for g in graph.groups]
    modules = [op.module for op in graph.operations if op.signature is not None]
    write_json(home / "widths.json", {"widths": table, "unprunable": graph.unprunable, "convolutions": modules})
    macs = count_macs(small, recipe.data.size)
    run.console.print(
        f"pruned: {len(graph.groups)} groups, {recipe.budget.kind} {budget['achieved'] / budget['dense']:.3f}x (limit "
        f"{budget['limit'] / budget['dense']:.3f}x), MACs {macs / run.facts['load']['macs']:.3f}x; scoring took "
        f"{spent.scoring:.1f} s; proof: {proof.silenced:.0e} silenced, {proof.folded:.0e} folded"
    )
    for old in home.rglob("*/checkpoint.pt"):  # the rounds' have served
        old.unlink()
    return {
        "budget": {"kind": recipe.budget.kind, **budget},
        "macs": macs,
        "params": count_params(small),
        "scoring_seconds": spent.scoring,
        "criterion_seconds": spent.criterion,
        "training_seconds": spent.training,
        "training_steps": spent.steps,
        "rounds": before.facts if before else [],
        "proof": {"silenced": proof.silenced, "folded": proof.folded},
    }


@dataclass
class Cut:
    """What the rounds before the last cut have left."""

    net: nn.Module
    plan: Plan  # of the dense network
    facts: list[dict[str, float]]


def cut_rounds(run: Run, dense: nn.Module, graph: ChannelGraph, spent: scoring.Spent) -> Cut | None:
    """Score, cut and train for each of `prune.rounds`; None where there are none. `dense` is left as it was."""
    recipe, example = run.recipe, load.example(run)
    if not recipe.prune.rounds:
        return None
    net, plan, facts = copy.deepcopy(dense), None, []
    terms_of = cost.COSTS[recipe.budget.kind]
    whole, step = total(terms_of(graph))(graph.widths()), recipe.prune.step or run.target.channel_step
    for number, part in enumerate(recipe.prune.rounds, start=1):
        rest = find_groups(net, example, recipe.prune.never)
        home = run.folder / "prune" / f"round{number}"
        args = recipe.prune.args if part.args is None else part.args
        scores = scoring.score(run, net, rest, spent, args, part.sparsity or recipe.prune.sparsity, home, number)
        how = "global" if recipe.prune.allocate == "auto" else recipe.prune.allocate
        widths = _allocator(run, net, rest, scores, how)(terms_of(rest), part.share * whole, step)
        cut = make_plan(net, rest, select(scores, widths))
        prove(net, rest, cut, example)
        small, _ = fold_constants(net, rest, cut, example)
        plan = cut if plan is None else compose(dense, graph, plan, cut)
        net = small
        if part.finetune is not None:
            scoring.teach(run, net, part.finetune, home / "finetune", number, Hooks(), spent, f"round {number}")
        achieved = total(terms_of(rest))(widths) / whole
        facts.append({"limit": part.share, "achieved": achieved})
        run.console.print(f"round {number}: {recipe.budget.kind} {achieved:.3f}x (limit {part.share:.3f}x)")
    assert plan is not None
    return Cut(net, plan, facts)


def _allocate(
    run: Run, net: nn.Module, graph: ChannelGraph, scores: dict[str, Any], dense: ChannelGraph
) -> tuple[Widths, dict[str, Any]]:
    """Widths under the budget, and what the budget says of them; shares are of the `dense` network's cost."""
    recipe = run.recipe
    how = recipe.prune.allocate
    how = ("knapsack" if recipe.budget.is_latency else "global") if how == "auto" else how
    if recipe.budget.is_latency:
        step = run.facts["profile"]["step"]
        allocate = _allocator(run, net, graph, scores, how)
        return latency.meet(
            run, net, graph, scores, lambda p, limit: allocate([Term(*t) for t in p.terms()], limit, step)
        )
    terms = cost.COSTS[recipe.budget.kind](graph)
    price = total(terms)
    whole = total(cost.COSTS[recipe.budget.kind](dense))(dense.widths())
    step = recipe.prune.step or run.target.channel_step
    limit = recipe.budget.limit(whole)
    widths = _allocator(run, net, graph, scores, how)(terms, limit, step)
    if price(widths) < 0.99 * limit:
        run.console.print(
            f"[yellow]widths in steps of {step} leave {1 - price(widths) / limit:.1%} of the budget unused; prune.step: 1 "
            "uses all of it[/yellow]"
        )
    return widths, {"limit": limit, "achieved": price(widths), "dense": whole}


def _allocator(run: Run, net: nn.Module, graph: ChannelGraph, scores: dict[str, Any], how: str) -> Allocator:
    """(terms, limit, step) -> widths, as `prune.allocate` and `prune.worth` say."""
    recipe = run.recipe
    losses = sensitivity(run, net, graph, scores) if how == "knapsack" and recipe.prune.worth == "sensitivity" else None

    def allocate(terms: list[Term], limit: float, step: int) -> Widths:
        if how != "knapsack":
            return by_rank(scores, total(terms), limit, how=how, min_keep=recipe.prune.min_keep, step=step)
        options = worth.candidates(graph.widths(), floors(scores, recipe.prune.min_keep, step), step)
        if losses is not None:
            return knapsack(worth.by_sensitivity(losses, scores, options), terms, limit)
        return knapsack(
            (worth.by_sum if recipe.prune.worth == "sum" else worth.by_score)(scores, options), terms, limit
        )

    return allocate


def sensitivity(
    run: Run, net: nn.Module, graph: ChannelGraph, scores: dict[str, Any], around: Widths | None = None
) -> dict[str, dict[int, float]]:
    """What each group's cut costs, the others at `around`; kept beside the scores as `prune/sensitivity.json`."""
    data, count = load.dataset(run, "train"), run.recipe.prune.sensitivity_images
    chosen = [data[i * len(data) // count][0] for i in range(min(count, len(data)))]
    images = [normalised(np.stack(chosen[n : n + 4])) for n in range(0, len(chosen), 4)]
    whole = [(b, None) for b in images if len(b) > 1]  # a norm over one pooled value has no variance
    with Progress("sensitivity", (1 + len(worth.SHARES)) * len(graph.groups), unit="cuts") as bar:
        found = worth.sensitivity(
            net, graph, scores, images, models.logits_of, around,
            settle=lambda cut: recalibrate(cut, whole, len(whole)) if whole else None, tick=bar.move,
        )  # fmt: skip
    write_json(run.folder / "prune" / "sensitivity.json", found)
    return found
