"""Score: what a criterion says of a network's channels, after the training or the calibration batches that it wants."""

from __future__ import annotations

import inspect
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import nn

from edgeprune import models
from edgeprune.errors import EdgepruneError, RecipeError
from edgeprune.models.modes import evaluating
from edgeprune.progress import doing
from edgeprune.prune import compensate
from edgeprune.prune.channels import ChannelGraph
from edgeprune.prune.compensate import Moments
from edgeprune.prune.criteria import CRITERIA, Criterion
from edgeprune.prune.ranks import averaged
from edgeprune.recipe import Train
from edgeprune.stages import load
from edgeprune.stages.run import Run
from edgeprune.train.loop import Hooks, train

_PARTS = ("before_step", "term", "after_backward", "state", "load_state")


@dataclass
class Spent:
    """Optimiser steps, and wall seconds of this process (a resumed run counts only its own), summed over the rounds."""

    scoring: float = 0.0  # all of it
    criterion: float = 0.0  # inside the criterion's own code
    training: float = 0.0  # of them in the criterion's, and between two cuts
    between: float = 0.0  # in trainings between two cuts, which belong to no scoring
    steps: int = 0


@doing("scoring the channels")
def score(
    run: Run, net: nn.Module, graph: ChannelGraph, spent: Spent, args: dict[str, Any], schedule: Train | None,
    home: Path | None = None, number: int = 0,
) -> dict[str, np.ndarray]:  # fmt: skip
    """group -> (units,) scores, the first process's in all; `net` comes out with the weights of the criterion's training,
    else untouched.

    Args:
        schedule: the training that the criterion takes part in; with one, no calibration batches are watched.
        home: where the training keeps its checkpoint; `prune/` by default.
        number: of the round; seeds its batches.

    Raises:
        EdgepruneError: a score is not a number.
        RecipeError: the criterion finds nothing to judge by.
    """
    started = time.perf_counter()
    made = CRITERIA[run.recipe.prune.method]
    if "seed" in inspect.signature(made).parameters:
        args = {"seed": run.recipe.seed, **args}
    criterion: Criterion = made(**args)
    criterion.attach(net, graph.groups)
    try:
        if schedule is not None:
            _teach(run, net, criterion, schedule, home or run.folder / "prune", number, spent)
        elif criterion.needs_gradient:
            _differentiate(run, net, criterion)
        elif criterion.needs_data:
            _watch(run, net)
    finally:
        criterion.detach()
    scores = broadcast_object_list([criterion.scores()])[0]  # devices may round differently
    spent.scoring += time.perf_counter() - started
    spent.criterion += criterion.clock.seconds
    return _checked(run, scores)


def _checked(run: Run, scores: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    bad = next((name for name, s in scores.items() if np.isnan(s).any()), None)
    if bad is not None:
        raise EdgepruneError(
            f"prune.method: {run.recipe.prune.method} gives scores that are not numbers for {bad}; its weights hold NaN"
        )
    if all(np.isinf(s).all() for s in scores.values()):
        raise RecipeError(
            f"prune.method: {run.recipe.prune.method} judges by the scales of norms, and no prunable layer has one; "
            "use l1, group_norm or taylor"
        )
    return scores


def teach(
    run: Run, net: nn.Module, cfg: Train, home: Path, number: int, hooks: Hooks, spent: Spent, title: str
) -> None:
    """Train `net` in place by `cfg` within the prune stage."""
    seed = run.recipe.seed + 2 + 10 * number
    batches = load.batches(run, cfg, seed)
    loss = load.task(run).loss(cfg.loss, batches.data)
    started = time.perf_counter()
    train(net, batches, cfg, home, loss=loss, seed=seed, title=title, hooks=hooks, context=run.key)
    spent.training += time.perf_counter() - started
    spent.steps += len(hooks.history)


def _teach(run: Run, net: nn.Module, criterion: Criterion, cfg: Train, home: Path, number: int, spent: Spent) -> None:
    """Training that the criterion takes part in; the weights that come of it are the ones that are cut."""
    own: dict[str, Any] = {part: getattr(criterion, part, None) for part in _PARTS}
    if state := own["state"]:  # a checkpoint holds what all processes have seen
        own["state"] = lambda: averaged(state())
    hooks = load.hooks(run, **own)
    teach(run, net, cfg, home, number, hooks, spent, "sparsity" if number == 0 else f"sparsity of round {number}")
    if hooks.state and hooks.load_state:  # each process has seen its own batches
        hooks.load_state(hooks.state())


def _batches(run: Run) -> Any:
    """The calibration batches, the same in every process."""
    recipe = run.recipe
    return islice(load.batches(run, recipe.calibration, recipe.seed).stream(), recipe.prune.batches)


def _watch(run: Run, net: nn.Module) -> None:
    device = PartialState().device
    net.to(device)
    with evaluating(net), torch.no_grad():
        for images, *_ in _batches(run):
            models.logits_of(net(images.to(device)))
    net.cpu()


@doing("gathering what stands in for removed channels")
def moments(run: Run, net: nn.Module, graph: ChannelGraph) -> dict[str, Moments] | None:
    """What the kept channels need to stand in for the removed ones, from the calibration batches; None where they do not."""
    if not run.recipe.prune.compensate:
        return None
    device = PartialState().device
    found = compensate.moments(net.to(device), graph, (images.to(device) for images, *_ in _batches(run)))
    net.cpu()
    return found


def _differentiate(run: Run, net: nn.Module, criterion: Any) -> None:
    """Backward passes of the fine-tuning loss over the calibration batches; weights, statistics and gradients stay as they were.

    In evaluation mode: the cut network starts from the norms' running statistics, and in training mode a normalised layer's
    filters have no first-order effect on the loss at all (see `criteria.taylor`).
    """
    device = PartialState().device
    loss_of = load.task(run).loss(run.recipe.calibration.loss, load.dataset(run, "train"))
    before = {p: p.grad for p in net.parameters()}
    net.to(device)
    torch.manual_seed(run.recipe.seed)  # a loss may draw
    try:
        with evaluating(net):
            for images, *labels in _batches(run):
                for p in before:
                    p.grad = None
                loss_of(net(images.to(device)), *(t.to(device) for t in labels)).backward()
                criterion.after_backward()
    finally:
        net.cpu()
        for p, gradient in before.items():
            p.grad = gradient
