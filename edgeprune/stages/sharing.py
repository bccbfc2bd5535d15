"""Share the budget out: which width each group gets, by the recipe's `allocate` and `worth`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import nn

from edgeprune import models
from edgeprune.data.transforms import normalised
from edgeprune.files import write_json
from edgeprune.progress import Progress
from edgeprune.prune import cost, worth
from edgeprune.prune.allocate import Scores, floors
from edgeprune.prune.allocate import allocate as by_rank
from edgeprune.prune.blocks import Blocks, find_blocks
from edgeprune.prune.channels import ChannelGraph
from edgeprune.prune.cost import Term, Widths, total
from edgeprune.prune.removal import knapsack_with_removal
from edgeprune.stages import latency, load, recovery
from edgeprune.stages.run import Run
from edgeprune.train.recalibrate import recalibrate

Allocate = Callable[[list[Term], float], Widths]


def share_out(
    run: Run, net: nn.Module, graph: ChannelGraph, scores: Scores, dense: ChannelGraph
) -> tuple[Widths, dict[str, Any]]:
    """Widths under the recipe's budget, and what the budget says of them; shares are of the `dense` network's cost."""
    recipe = run.recipe
    if recipe.budget.is_latency:
        allocate = allocator(run, net, graph, scores, run.facts["profile"]["step"])
        return latency.meet(run, net, graph, scores, lambda p, limit: allocate([Term(*t) for t in p.terms()], limit))
    terms, step = cost.COSTS[recipe.budget.kind](graph), recipe.prune.step or run.target.channel_step
    whole = total(cost.COSTS[recipe.budget.kind](dense))(dense.widths())
    limit = recipe.budget.limit(whole)
    widths = allocator(run, net, graph, scores, step)(terms, limit)
    price = total(terms)(widths)
    if price < 0.99 * limit:
        run.console.print(
            f"[yellow]widths in steps of {step} leave {1 - price / limit:.1%} of the budget unused; prune.step: 1 "
            "uses all of it[/yellow]"
        )
    return widths, {"limit": limit, "achieved": price, "dense": whole}


def allocator(
    run: Run, net: nn.Module, graph: ChannelGraph, scores: Scores, step: int, removal: bool = True
) -> Allocate:
    """(terms, limit) -> widths. What widths are worth is measured once.

    Args:
        removal: whole blocks may go, if the recipe lets them.
    """
    recipe = run.recipe
    how = recipe.prune.allocate
    how = ("knapsack" if recipe.budget.is_latency else "global") if how == "auto" else how
    if how != "knapsack":
        return lambda terms, limit: by_rank(
            scores, total(terms), limit, how=how, min_keep=recipe.prune.min_keep, step=step
        )
    options = worth.candidates(graph.widths(), floors(scores, recipe.prune.min_keep, step), step)
    blocks = find_blocks(graph) if removal and recipe.prune.remove_blocks != "never" else {}
    if recipe.prune.worth == "sensitivity":
        found = sensitivity(run, net, graph, scores, blocks)
        values, losses = worth.by_sensitivity(found.curves, scores, options), found.removed
    else:
        values = (worth.by_sum if recipe.prune.worth == "sum" else worth.by_score)(scores, options)
        losses = dict.fromkeys(blocks, 0.0)
    free = recipe.prune.remove_blocks == "free"
    return lambda terms, limit: knapsack_with_removal(graph, values, terms, limit, losses, free)


def sensitivity(run: Run, net: nn.Module, graph: ChannelGraph, scores: Scores, blocks: Blocks) -> worth.Losses:
    """What cuts cost, each alone, after a short recovery; kept beside the scores as `prune/sensitivity.json`."""
    data, count = load.dataset(run, "train"), run.recipe.prune.sensitivity_images
    chosen = [data[i * len(data) // count][0] for i in range(min(count, len(data)))]
    images = [normalised(np.stack(chosen[n : n + 4])) for n in range(0, len(chosen), 4)]
    settling = [(b, None) for b in images if len(b) > 1]  # a norm over one pooled value has no variance

    def settle(cut: nn.Module) -> None:
        if settling:
            recalibrate(cut, settling, len(settling))

    steps = recovery.steps_each(run, len(graph.groups))
    net = copy.deepcopy(net).to(PartialState().device)
    yard = worth.Yardstick(net, images, models.logits_of, settle)
    with Progress("sensitivity", len(worth.SHARES) * len(graph.groups) + len(blocks), unit="cuts") as bar:
        found = worth.sensitivity(net, graph, scores, yard, blocks, bar.move)
    content: dict[str, Any] = {"recovery_steps": steps, "before": asdict(found)}
    if steps:
        found = recovery.recovered(run, net, graph, scores, yard, found, steps)
    [found] = broadcast_object_list([found])  # devices round differently; all processes cut alike
    write_json(run.folder / "prune" / "sensitivity.json", content | asdict(found))
    return found
