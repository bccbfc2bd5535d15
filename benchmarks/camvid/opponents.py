"""Who else prunes: torch-pruning by its own API, an even share trained from scratch; and ways that are not recipes' keys.

Each is a prune stage: it leaves `prune/plan.json` and `prune/weights.safetensors` as edgeprune's own does, so that fine-tuning,
engine and measurement are the very same. torch-pruning's ratio is the largest whose built engine, measured, meets the budget,
found by the same closed loop that serves edgeprune.
"""

from __future__ import annotations

import copy
import functools
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from torch import nn

from edgeprune import models
from edgeprune.errors import BudgetError, SurgeryError
from edgeprune.files import write_json
from edgeprune.profile.macs import count_macs, count_params
from edgeprune.prune import clique
from edgeprune.prune.allocate import Scores, allocate, select
from edgeprune.prune.artefact import save_pruned
from edgeprune.prune.channels import ChannelGraph
from edgeprune.prune.criteria import CRITERIA
from edgeprune.prune.criteria.members import taps
from edgeprune.prune.cutter import Cutter
from edgeprune.prune.groups import find_groups
from edgeprune.prune.plan import Plan, make_plan
from edgeprune.prune.proof import prove
from edgeprune.prune.surgery import shrink
from edgeprune.recipe import Train
from edgeprune.stages import latency, load, scoring
from edgeprune.stages import prune as prune_stage
from edgeprune.stages.run import Run
from edgeprune.train.loop import Hooks

sys.path.insert(0, str(Path(__file__).parents[1] / "latency_budget"))

Keep = dict[str, np.ndarray]  # group -> kept units
_OUTS = (tp.prune_conv_out_channels, tp.prune_depthwise_conv_out_channels, tp.prune_linear_out_channels)
_LEAST = 0.1  # of every layer stays, as for most methods of the study


def torch_pruning(
    run: Run,
    importance: str,
    isomorphic: bool = False,
    sparse: bool = False,
    rounding: str = "kept",
    sparsity: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """torch-pruning's pruner over the whole network (`global_pruning`), widths on the device's step (`round_to`).

    Args:
        importance: "group_norm" (`GroupNormPruner`) or "taylor" (`MetaPruner` with `GroupTaylorImportance`).
        isomorphic: channels compete only with those of like layers (its ECCV 2024 addition).
        sparse: `GroupNormPruner.regularize` during a training by `sparsity`, as its examples do.
        rounding: "kept": at least one step, and a tenth, of every layer stays; "released": as torch-pruning has it, which takes
            a layer of 32 with 20 channels to go down to 0 of steps of 16, refuses that, and leaves the layer whole.

    Raises:
        SurgeryError: its cut does not leave a network that is the dense one with channels taken out.
    """
    began, net, example = time.perf_counter(), load.dense(run), load.example(run)
    graph, spent = find_groups(net, example), scoring.Spent()
    step = run.facts["profile"]["step"]
    if sparse:
        pruner = _pruner(net, graph, example, importance, isomorphic, 0.5, step, rounding)
        hooks = Hooks(after_backward=lambda: pruner.regularize(net))
        cfg = Train.model_validate(sparsity)
        scoring.teach(run, net, cfg, run.folder / "prune", 0, hooks, spent, "sparse training of torch-pruning")
        net.eval()
    if importance == "taylor":
        _differentiate(run, net)
    spent.scoring = time.perf_counter() - began

    @functools.cache
    def cut(percent: int) -> tuple[nn.Module, Keep]:
        small = _copied(net)
        return small, _prune(
            _pruner(small, graph, example, importance, isomorphic, percent / 100, step, rounding), small, graph
        )

    def share(predictor: Any, limit: float) -> dict[str, int]:
        low, high = 0, 97  # the least ratio that is predicted to meet the limit; costs fall with it, but for rounding
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if predictor(widths_of(cut(middle)[1])) <= limit else (middle, high)
        found = widths_of(cut(high)[1])
        if predictor(found) > limit:
            raise BudgetError("budget: torch-pruning's largest ratio does not meet it")
        chosen[tuple(found.values())] = high
        return found

    chosen: dict[tuple[int, ...], int] = {}
    widths, said = latency.meet(run, Cutter(net, graph, _any_scores(net, graph)), share)
    small, keep = cut(chosen[tuple(widths.values())])
    plan = make_plan(net, graph, keep)
    for p in small.parameters():
        p.grad = None
    shrink(net, plan).load_state_dict(small.state_dict())  # the very network that the plan describes
    run.console.print(f"torch-pruning: ratio {chosen[tuple(widths.values())]} %")
    return _leave(run, net, graph, plan, small, said, spent)


def _pruner(
    net: nn.Module,
    graph: ChannelGraph,
    example: torch.Tensor,
    importance: str,
    isomorphic: bool,
    ratio: float,
    step: int,
    rounding: str = "kept",
) -> Any:
    made, judged = {
        "group_norm": (tp.pruner.GroupNormPruner, tp.importance.GroupMagnitudeImportance(p=2)),
        "taylor": (tp.pruner.MetaPruner, tp.importance.GroupTaylorImportance()),
    }[importance]
    whole = [
        net.get_submodule(name) for name in graph.unprunable
    ]  # classifiers, and auxiliary heads, which do not ship
    pruner = made(
        net, example, importance=judged, global_pruning=True, isomorphic=isomorphic, pruning_ratio=ratio,
        max_pruning_ratio=1 - _LEAST, round_to=step, ignored_layers=whole,
    )  # fmt: skip
    if rounding == "kept":
        pruner._round_to = _leaving_some
    return pruner


def _leaving_some(gone: int, channels: int, step: int) -> int:
    """How many go where `gone` of the channels should: what stays is rounded down to the step, but not to nothing.

    torch-pruning's own `max_pruning_ratio` does not bound a layer where all compete at once.
    """
    least = min(channels, step * math.ceil(max(1, _LEAST * channels / step)))
    kept = (channels - gone) // step * step
    return channels - max(kept, least)


def _prune(pruner: Any, net: nn.Module, graph: ChannelGraph) -> Keep:
    """Prune `net` in place; what stays, in our groups' units, by keeping count of what each group takes from each layer."""
    names = {m: n for n, m in net.named_modules()}
    stays = {n: np.arange(len(m.weight)) for n, m in net.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    for group in pruner.step(interactive=True):
        for dep, gone in group:
            if dep.handler in _OUTS:
                name = names[dep.target.module]
                stays[name] = np.delete(stays[name], sorted(set(gone)))
        group.prune()
    keep = {}
    for g in graph.groups:
        kept = [
            np.flatnonzero(np.isin(m.index.reshape(g.size, -1), stays[m.module]).all(1))
            for m in g.members
            if m.kind == "out"
        ]
        if any(not np.array_equal(kept[0], k) for k in kept):
            raise SurgeryError(f"torch-pruning: channels of {g.name} that belong together were not cut together")
        keep[g.name] = kept[0]
    return keep


def widths_of(keep: Keep) -> dict[str, int]:
    """How many units stay."""
    return {name: len(kept) for name, kept in keep.items()}


def _copied(net: nn.Module) -> nn.Module:
    """A copy with the gradients, which Taylor's importance reads."""
    found = copy.deepcopy(net)
    for a, b in zip(found.parameters(), net.parameters(), strict=True):
        a.grad = None if b.grad is None else b.grad.clone()
    return found


def _differentiate(run: Run, net: nn.Module) -> None:
    """Gradients of the fine-tuning's loss, summed over the batches that our own criteria see."""
    loss_of = load.task(run).loss(run.recipe.finetune.loss, load.dataset(run, "train"))
    net.eval()
    for images, labels in scoring._batches(run):
        loss_of(net(images), labels).backward()


def _any_scores(net: nn.Module, graph: ChannelGraph) -> Scores:
    """Which channels an engine is timed with makes no difference to its time."""
    criterion = CRITERIA["l2"]()
    criterion.attach(net, graph.groups)
    return criterion.scores()


def scratch(run: Run) -> dict[str, Any]:
    """An even share of every layer, and none of the dense network's weights."""
    net, example = load.dense(run), load.example(run)
    graph, step = find_groups(net, example), run.facts["profile"]["step"]
    scores = _any_scores(net, graph)
    share = functools.partial(allocate, scores, how="uniform", min_keep=run.recipe.prune.min_keep, step=step)
    widths, said = latency.meet(run, Cutter(net, graph, scores), share)
    plan = make_plan(net, graph, select(scores, widths))
    small = shrink(net, plan)
    torch.manual_seed(run.recipe.seed)
    for module in small.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif hasattr(module, "reset_parameters"):
            module.reset_parameters()  # type: ignore[operator]
    return _leave(run, net, graph, plan, small, said, scoring.Spent())


def by_macs(run: Run) -> dict[str, Any]:
    """edgeprune's worths with MACs for costs, at the most MACs whose engine, measured, meets the latency budget."""
    import accuracy

    return _ours(run, lambda cutter: accuracy.allocator(run, "macs", cutter)[0])


def swaps(run: Run) -> dict[str, Any]:
    """SIRFP's greedy clique improved by exchanges (`clique.improve_by_swaps`), at the widths that the greedy's scores give."""
    step, floor = run.facts["profile"]["step"], run.recipe.prune.min_keep

    def share(cutter: Cutter) -> Any:
        return functools.partial(allocate, cutter.scores, how="global", min_keep=floor, step=step)

    def improved(net: nn.Module, graph: ChannelGraph, keep: Keep) -> Keep:
        criterion = CRITERIA["sirfp"](**run.recipe.prune.args)
        criterion.attach(net, graph.groups)
        with torch.no_grad():
            for images, _ in scoring._batches(run):
                models.logits_of(net(images))
        criterion.detach()
        found, changed = dict(keep), 0
        for g in graph.groups:
            tapped = taps(g)
            if len(tapped) == 1 and tapped[0].index.ndim == 1:  # the union of several layers has no one clique
                redundancy = criterion._means[tapped[0].module].abs().double().numpy()
                found[g.name] = clique.improve_by_swaps(redundancy, keep[g.name])
                changed += len(np.setdiff1d(found[g.name], keep[g.name]))
        run.console.print(f"swaps: {changed} of {sum(map(len, keep.values()))} kept channels exchanged")
        return found

    return _ours(run, share, improved)


def _ours(run: Run, allocator: Callable[..., Any], change: Callable[..., Keep] | None = None) -> dict[str, Any]:
    net, example, spent = load.dense(run), load.example(run), scoring.Spent()
    graph = find_groups(net, example)
    scores = scoring.score(run, net, graph, spent, run.recipe.prune.args, None)
    cutter = Cutter(net, graph, scores, scoring.moments(run, net, graph))
    widths, said = latency.meet(run, cutter, allocator(cutter))
    plan = make_plan(net, graph, change(net, graph, select(scores, widths))) if change else cutter.plan(widths)
    return _leave(run, net, graph, plan, cutter.small(plan, example), said, spent)


def _leave(
    run: Run,
    net: nn.Module,
    graph: ChannelGraph,
    plan: Plan,
    small: nn.Module,
    said: dict[str, Any],
    spent: scoring.Spent,
) -> dict[str, Any]:
    """Write what a prune stage writes; its facts."""
    proof = prove(net, graph, plan, load.example(run))
    save_pruned(run.folder / "prune", small, plan, load.network_spec(run))
    prune_stage._write_widths(run, graph, plan.widths, shrink(net, plan))
    write_json(run.folder / "prune" / "said.json", said)
    return {
        "budget": {"kind": run.recipe.budget.kind, **said}, "macs": count_macs(small, run.recipe.data.size),
        "params": count_params(small, run.recipe.data.size), "scoring_seconds": spent.scoring, "criterion_seconds": spent.criterion,
        "training_seconds": spent.training, "training_steps": spent.steps,
        "judging_steps": run.kept.get("judging_steps", 0), "rounds": [],
        "proof": {"silenced": proof.silenced, "folded": proof.folded},
    }  # fmt: skip


STAGES: dict[str, Callable[..., dict[str, Any]]] = {
    "torch-pruning": torch_pruning,
    "scratch": scratch,
    "macs": by_macs,
    "swaps": swaps,
}
