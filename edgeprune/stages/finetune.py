"""Fine-tune: recalibrate the pruned network's norms, train it again, here or by the user's own command, and say what it scores."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import nn

from edgeprune import models
from edgeprune.errors import CheckpointError
from edgeprune.files import save_tensors, write_json
from edgeprune.models.state import weights_of
from edgeprune.prune.artefact import restore, save_pruned
from edgeprune.prune.plan import read_plan, save_plan
from edgeprune.recipe import Distill, Finetune, Recipe
from edgeprune.stages import load
from edgeprune.stages.run import Run
from edgeprune.train import sparse
from edgeprune.train.command import trained_by
from edgeprune.train.distill import make_term
from edgeprune.train.loop import train
from edgeprune.train.memory import lie
from edgeprune.train.recalibrate import recalibrate


def pruned(run: Run, stage: str = "pruned") -> nn.Module:
    """The pruned network as `stage` left it."""
    plan, _ = read_plan(run.folder / "prune" / "plan.json")
    return restore(load.build(run), plan, run.folder / stage / "weights.safetensors")


def read_by(recipe: Recipe) -> tuple[str, ...]:
    """The files that the stage reads by the recipe."""
    return (recipe.finetune.checkpoint,) if recipe.finetune and recipe.finetune.checkpoint else ()


def finetune(run: Run) -> dict[str, Any]:
    """Writes `finetune/weights.safetensors`, `finetune/plan.json` (what `edgeprune.load` reads) and `pruned.json`."""
    recipe, home = run.recipe, run.folder / "finetune"
    net, task = pruned(run, "prune"), load.task(run)
    cut = load.score(run, net)
    plan, network = read_plan(run.folder / "prune" / "plan.json")
    hold = _two_of_four(run, net) if recipe.finetune and recipe.finetune.weights == "2of4" else None
    recalibrated = (
        _recalibrated(run, net, cut, recipe.finetune) if recipe.finetune and not recipe.finetune.checkpoint else cut
    )
    key, name = task.metric.key, task.metric.name
    if recipe.finetune is None:
        run.console.print("finetune: null: the cut network ships as it is")
    elif recipe.finetune.checkpoint:
        net = tuned(run)
    elif recipe.finetune.command:
        save_pruned(home / "start", net.cpu(), plan, network)
        _by_command(run, net, recipe.finetune.command)
    else:
        _train(run, net, recipe.finetune, hold)
    save_tensors(home / "weights.safetensors", weights_of(net))
    save_plan(home / "plan.json", plan, network)
    net = pruned(run, "finetune")  # what is told is of the weights that were stored
    found = load.score(run, net)
    facts = load.facts_of(run, net, found)
    facts[f"{key}_cut"], facts[f"{key}_recalibrated"] = cut.score, recalibrated.score
    write_json(home / "pruned.json", facts)
    run.console.print(f"fine-tuned: {name} {100 * found.score:.2f}")
    return facts


def _recalibrated(run: Run, net: nn.Module, cut: Any, cfg: Finetune) -> Any:
    """The evaluation with new statistics in the norms; `net` has them then."""
    name = load.task(run).metric.name
    if cfg.recalibrate_batches:
        loader = load.batches(run, cfg, run.recipe.seed + 1)
        behind = run.facts.get("prune", {}).get("disturbed_norms")
        recalibrate(net.to(PartialState().device), loader.stream(), cfg.recalibrate_batches, behind)
    found = load.score(run, net)
    run.console.print(f"pruned: {name} {100 * cut.score:.2f}, after recalibration {100 * found.score:.2f}")
    return found


def _train(run: Run, net: nn.Module, cfg: Finetune, hold: Callable[[], None] | None) -> None:
    """By our own loop."""
    loader, seed = load.batches(run, cfg, run.recipe.seed + 1), run.recipe.seed + 1
    train(
        net, loader, cfg, run.folder / "finetune", loss=load.task(run).loss(cfg.loss, loader.data), seed=seed, title="finetune",
        hooks=load.hooks(run, distill=_taught(run, cfg.distill) if cfg.distill else None, after_backward=hold), context=run.key,
    )  # fmt: skip


def tuned(run: Run) -> nn.Module:
    """The cut network with the weights of `finetune.checkpoint`.

    Raises:
        CheckpointError: they are not of that network, or no numbers.
    """
    net, cfg = pruned(run, "prune"), run.recipe.finetune
    assert cfg and cfg.checkpoint
    _take(run, net, Path(cfg.checkpoint).expanduser())
    return net


def _by_command(run: Run, net: nn.Module, command: str) -> None:
    """By the user's command, which starts from `finetune/start/`.

    Raises:
        UsageError, CheckpointError: it failed, or left no weights of the cut network.
    """
    home = run.folder / "finetune"
    places = {"pruned": home / "start", "tuned": home / "tuned.weights"}
    try:
        path = trained_by(command, places, "tuned", "finetune.command")
    finally:
        shutil.rmtree(home / "start", ignore_errors=True)  # the command may have moved it
    _take(run, net, path)
    path.unlink()  # what it held is in the stage's own files


def _take(run: Run, net: nn.Module, path: Path) -> None:
    try:
        found = models.load_checkpoint(net, path)
    except CheckpointError as error:
        of = run.folder / "prune"
        raise CheckpointError(f"tuned weights, which have to be of the network that was cut ({of}): {error}") from error
    for note in found.notes:
        run.console.print(f"of {path}: {note}", markup=False, soft_wrap=True)


def _two_of_four(run: Run, net: nn.Module) -> Callable[[], None]:
    """Zero two of each four weights; what is returned keeps them so in training."""
    found, all_of_them = sparse.layers(net), [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    run.console.print(
        f"2:4 weights in {len(found)} of {len(all_of_them)} layers (the others are grouped, frozen or have no multiple of four inputs)"
    )
    return sparse.apply(net)


def _taught(run: Run, cfg: Distill) -> Any:
    """The dense network as teacher, for the training loop's hooks."""
    teacher, task = load.dense(run), load.task(run)

    def begin(student: nn.Module, device: torch.device, layout: torch.memory_format) -> Any:
        laid = lie(teacher.to(device), layout)
        return make_term(cfg, student, laid, len(task.classes), task.apart)

    return begin
