"""Prune: score the channels, share the budget out, cut, and prove the cut."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

from edgeprune import models
from edgeprune.data.loader import train_loader
from edgeprune.errors import BudgetError
from edgeprune.files import write_json
from edgeprune.profile.macs import count_macs
from edgeprune.prune import cost
from edgeprune.prune.allocate import allocate, select
from edgeprune.prune.artefact import save_pruned
from edgeprune.prune.criteria import CRITERIA
from edgeprune.prune.groups import ChannelGraph, find_groups
from edgeprune.prune.plan import make_plan
from edgeprune.prune.proof import prove
from edgeprune.prune.surgery import fold_constants
from edgeprune.stages import load

if TYPE_CHECKING:
    from edgeprune.pipeline import Run


def prune(run: Run) -> dict[str, Any]:
    """Writes `prune/plan.json`, `prune/weights.safetensors`, `prune/widths.json`."""
    recipe, home = run.recipe, run.folder / "prune"
    net, example = load.dense(run), load.example(run)
    graph = find_groups(net, example, recipe.prune.never)
    started = time.perf_counter()
    scores = score(run, net, graph)
    seconds = time.perf_counter() - started
    price = cost.COSTS[recipe.budget.kind](graph)
    whole = price(graph.widths())
    limit = recipe.budget.limit(whole)
    widths = allocate(
        scores, price, limit, how=recipe.prune.allocate, min_keep=recipe.prune.min_keep, step=run.target.channel_step
    )
    plan = make_plan(net, graph, select(scores, widths))
    proof = prove(net, graph, plan, example)
    small, _ = fold_constants(net, graph, plan, example)
    if price(widths) > limit:
        raise BudgetError(f"budget.{recipe.budget.kind}: {price(widths):.4g} is over {limit:.4g}")
    save_pruned(home, small, plan, load.network_spec(run))
    table = [{"group": g.name, "before": g.size, "after": widths[g.name]} for g in graph.groups]
    write_json(home / "widths.json", {"widths": table, "unprunable": graph.unprunable})
    macs = count_macs(small, tuple(recipe.data.size))
    run.console.print(
        f"pruned: {len(graph.groups)} groups, budget {recipe.budget.kind} {price(widths) / whole:.3f}x (limit "
        f"{limit / whole:.3f}x), MACs {macs / run.facts['load']['macs']:.3f}x; scoring took {seconds:.1f} s; proof: "
        f"{proof.silenced:.0e} silenced, {proof.folded:.0e} folded"
    )
    return {
        "budget": {"kind": recipe.budget.kind, "limit": limit, "achieved": price(widths), "dense": whole},
        "macs": macs,
        "scoring_seconds": seconds,
        "proof": {"silenced": proof.silenced, "folded": proof.folded},
    }


def score(run: Run, net: torch.nn.Module, graph: ChannelGraph) -> dict[str, Any]:
    """The criterion's scores over the recipe's calibration batches."""
    recipe = run.recipe
    criterion = CRITERIA[recipe.prune.method](**recipe.prune.args)
    criterion.attach(net, graph.groups)
    try:
        if criterion.needs_data:
            cfg = recipe.finetune
            loader = train_loader(load.dataset(run, "train"), cfg, seed=recipe.seed, workers=recipe.data.workers)
            net.eval()
            done = 0
            while done < recipe.prune.batches:
                for images, _ in loader:
                    with torch.no_grad():
                        models.logits_of(net(images))
                    done += 1
                    if done == recipe.prune.batches:
                        break
    finally:
        criterion.detach()
    return criterion.scores()
