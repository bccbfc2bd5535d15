"""Prune: score the channels, share the budget out, cut, and prove the cut."""

from __future__ import annotations

import time
from dataclasses import asdict
from itertools import islice
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import nn

from edgeprune import models
from edgeprune.data.transforms import normalised
from edgeprune.errors import BudgetError, RecipeError
from edgeprune.files import write_json
from edgeprune.profile.macs import count_macs, count_params
from edgeprune.progress import Progress
from edgeprune.prune import cost, worth
from edgeprune.prune.allocate import allocate as by_rank
from edgeprune.prune.allocate import floors, select
from edgeprune.prune.artefact import save_pruned
from edgeprune.prune.blocks import Blocks, find_blocks
from edgeprune.prune.cost import Term, Widths, total
from edgeprune.prune.criteria import CRITERIA
from edgeprune.prune.groups import ChannelGraph, find_groups
from edgeprune.prune.plan import make_plan
from edgeprune.prune.proof import prove
from edgeprune.prune.removal import knapsack_with_removal
from edgeprune.prune.surgery import fold_constants
from edgeprune.stages import latency, load
from edgeprune.stages.profile import predictor_of
from edgeprune.stages.run import Run
from edgeprune.train.loop import Hooks, train
from edgeprune.train.recalibrate import recalibrate


def prune(run: Run) -> dict[str, Any]:
    """Writes `prune/plan.json`, `prune/weights.safetensors`, `prune/widths.json`."""
    recipe, home = run.recipe, run.folder / "prune"
    net, example = load.dense(run), load.example(run)
    graph = find_groups(net, example, recipe.prune.never)
    if not graph.groups:
        raise RecipeError("prune.never: leaves no channel that can be pruned")
    started = time.perf_counter()
    scores = score(run, net, graph)
    seconds = time.perf_counter() - started
    found = [
        _allocate(run, net, graph, scores) if PartialState().is_main_process or not recipe.budget.is_latency else None
    ]
    if recipe.budget.is_latency:  # one process builds and measures, the others cut as it says
        broadcast_object_list(found)
    assert found[0] is not None
    widths, budget = found[0]
    plan = make_plan(net, graph, select(scores, widths))
    proof = prove(net, graph, plan, example)
    small, _ = fold_constants(net, graph, plan, example)
    save_pruned(home, small, plan, load.network_spec(run))
    table = [{"group": g.name, "before": g.size, "after": widths[g.name]} for g in graph.groups]
    calls = [op for op in graph.operations if op.signature is not None]
    gone = [op.module for op in calls if 0 in (op.outputs.at(widths), 1 if op.inputs is None else op.inputs.at(widths))]
    write_json(
        home / "widths.json",
        {
            "widths": table, "unprunable": graph.unprunable, "convolutions": [op.module for op in calls], "removed": gone,
        },
    )  # fmt: skip
    macs = count_macs(small, recipe.data.size)
    if gone:
        run.console.print(f"removed whole: {', '.join(n for n, w in widths.items() if not w)}")
    run.console.print(
        f"pruned: {len(graph.groups)} groups, {recipe.budget.kind} {budget['achieved'] / budget['dense']:.3f}x (limit "
        f"{budget['limit'] / budget['dense']:.3f}x), MACs {macs / run.facts['load']['macs']:.3f}x; scoring took "
        f"{seconds:.1f} s; proof: {proof.silenced:.0e} silenced, {proof.folded:.0e} folded"
    )
    return {
        "budget": {"kind": recipe.budget.kind, **budget},
        "macs": macs,
        "params": count_params(small),
        "scoring_seconds": seconds,
        "proof": {"silenced": proof.silenced, "folded": proof.folded},
    }


def _allocate(run: Run, net: nn.Module, graph: ChannelGraph, scores: dict[str, Any]) -> tuple[Widths, dict[str, Any]]:
    """Widths under the budget, and what the budget says of them."""
    recipe = run.recipe
    how = recipe.prune.allocate
    how = ("knapsack" if recipe.budget.is_latency else "global") if how == "auto" else how
    if recipe.budget.is_latency:
        predictor, step = predictor_of(run, graph), run.facts["profile"]["step"]
        terms, limit = [Term(*t) for t in predictor.terms()], latency.limit_of(run, run.facts["profile"]["dense_ms"])
    else:
        terms, step = cost.COSTS[recipe.budget.kind](graph), recipe.prune.step or run.target.channel_step
        limit = recipe.budget.limit(total(terms)(graph.widths()))
    options = worth.candidates(graph.widths(), floors(scores, recipe.prune.min_keep, step), step)
    blocks = find_blocks(graph) if recipe.prune.remove_blocks else {}
    if how != "knapsack":
        values, losses = {}, {}
    elif recipe.prune.worth == "score":
        values, losses = worth.by_score(scores, options), dict.fromkeys(blocks, 0.0)
    else:
        found = sensitivity(run, net, graph, scores, blocks, _even(run, scores, terms, limit, step))
        values, losses = worth.by_sensitivity(found.curves, scores, options), found.removed

    def allocate(terms: list[Term], limit: float) -> Widths:
        if how == "knapsack":
            return knapsack_with_removal(graph, values, terms, limit, losses)
        return by_rank(scores, total(terms), limit, how=how, min_keep=recipe.prune.min_keep, step=step)

    if recipe.budget.is_latency:
        return latency.meet(run, net, graph, scores, lambda p, most: allocate([Term(*t) for t in p.terms()], most))
    widths, price = allocate(terms, limit), total(terms)
    if price(widths) < 0.99 * limit:
        run.console.print(
            f"[yellow]widths in steps of {step} leave {1 - price(widths) / limit:.1%} of the budget unused; prune.step: 1 "
            "uses all of it[/yellow]"
        )
    return widths, {"limit": limit, "achieved": price(widths), "dense": price(graph.widths())}


def _even(run: Run, scores: dict[str, Any], terms: list[Term], limit: float, step: int) -> Widths:
    """The same share of every group under the limit, or the narrowest: where the network will be, more or less."""
    least = run.recipe.prune.min_keep
    try:
        return by_rank(scores, total(terms), limit, how="uniform", min_keep=least, step=step)
    except BudgetError:
        return floors(scores, least, step)


def sensitivity(
    run: Run, net: nn.Module, graph: ChannelGraph, scores: dict[str, Any], blocks: Blocks, around: Widths | None
) -> worth.Losses:
    """What cuts cost, each alone, the others at `around`; kept beside the scores as `prune/sensitivity.json`."""
    data, count = load.dataset(run, "train"), run.recipe.prune.sensitivity_images
    chosen = [data[i * len(data) // count][0] for i in range(min(count, len(data)))]
    images = [normalised(np.stack(chosen[n : n + 4])) for n in range(0, len(chosen), 4)]
    settling = [(b, None) for b in images if len(b) > 1]  # a norm over one pooled value has no variance

    def settle(cut: nn.Module) -> None:
        if settling:
            recalibrate(cut, settling, len(settling))

    with Progress("sensitivity", 1 + (1 + len(worth.SHARES)) * len(graph.groups) + len(blocks), unit="cuts") as bar:
        found = worth.sensitivity(net, graph, scores, images, models.logits_of, blocks, around, settle, bar.move)
    write_json(run.folder / "prune" / "sensitivity.json", asdict(found))
    return found


def score(run: Run, net: nn.Module, graph: ChannelGraph) -> dict[str, Any]:
    """The criterion's scores: after its sparsity training, or over the recipe's calibration batches."""
    recipe = run.recipe
    criterion = CRITERIA[recipe.prune.method](**recipe.prune.args)
    criterion.attach(net, graph.groups)
    try:
        if recipe.prune.sparsity is not None:
            _sparsify(run, net, criterion)
        if criterion.needs_data:
            _watch(run, net)
    finally:
        criterion.detach()
    return criterion.scores()


def _watch(run: Run, net: nn.Module) -> None:
    recipe = run.recipe
    batches = load.batches(run, recipe.finetune, recipe.seed)
    device = PartialState().device
    net.eval().to(device)
    with torch.no_grad():
        for images, _ in islice(batches.stream(), recipe.prune.batches):
            models.logits_of(net(images.to(device)))
    net.cpu()


def _sparsify(run: Run, net: nn.Module, criterion: Any) -> None:
    """Training under the criterion's sparsity term; the weights that come of it are the ones that are cut."""
    recipe = run.recipe
    cfg, data = recipe.prune.sparsity, load.dataset(run, "train")
    batches = load.batches(run, cfg, recipe.seed + 2)
    hooks = Hooks(after_backward=criterion.after_backward, evaluate=lambda n: load.score(run, n).miou)
    home = run.folder / "prune"
    train(
        net,
        batches,
        cfg,
        home,
        classes=len(data.classes),
        seed=recipe.seed + 2,
        title="sparsity",
        hooks=hooks,
        context=run.key,
    )
