"""Fine-tune: recalibrate the pruned network's norms, train it again, and say what it scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from accelerate import PartialState
from torch import nn

from edgeprune.files import save_tensors, write_json
from edgeprune.prune.artefact import restore
from edgeprune.prune.plan import read_plan, save_plan
from edgeprune.stages import load
from edgeprune.stages.run import Run
from edgeprune.train import sparse
from edgeprune.train.distill import make_term
from edgeprune.train.loop import train
from edgeprune.train.memory import lie
from edgeprune.train.recalibrate import recalibrate


def pruned(run: Run, stage: str = "pruned") -> nn.Module:
    """The pruned network as `stage` left it."""
    plan, _ = read_plan(run.folder / "prune" / "plan.json")
    return restore(load.build(run), plan, run.folder / stage / "weights.safetensors")


def finetune(run: Run) -> dict[str, Any]:
    """Writes `finetune/weights.safetensors`, `finetune/plan.json` (what `edgeprune.load` reads) and `pruned.json`."""
    recipe, home = run.recipe, run.folder / "finetune"
    cfg = recipe.finetune
    net = pruned(run, "prune")
    task = load.task(run)
    loader = load.batches(run, cfg, recipe.seed + 1)
    cut = load.score(run, net)
    hold = _two_of_four(run, net) if cfg.weights == "2of4" else None
    if cfg.recalibrate_batches:
        behind = run.facts.get("prune", {}).get("disturbed_norms")
        recalibrate(net.to(PartialState().device), loader.stream(), cfg.recalibrate_batches, behind)
    recalibrated = load.score(run, net)
    key, name = task.metric.key, task.metric.name
    run.console.print(f"pruned: {name} {100 * cut.score:.2f}, after recalibration {100 * recalibrated.score:.2f}")
    train(
        net, loader, cfg, home, loss=task.loss(cfg.loss, loader.data), seed=recipe.seed + 1, title="finetune",
        hooks=load.hooks(run, distill=_taught(run) if cfg.distill else None, after_backward=hold), context=run.key,
    )  # fmt: skip
    found = load.score(run, net)
    plan, network = read_plan(run.folder / "prune" / "plan.json")
    save_tensors(home / "weights.safetensors", dict(net.state_dict()))
    save_plan(home / "plan.json", plan, network)
    facts = load.facts_of(run, net, found)
    facts[f"{key}_cut"], facts[f"{key}_recalibrated"] = cut.score, recalibrated.score
    write_json(home / "pruned.json", facts)
    run.console.print(f"fine-tuned: {name} {100 * found.score:.2f}")
    return facts


def _two_of_four(run: Run, net: nn.Module) -> Callable[[], None]:
    """Zero two of each four weights; what is returned keeps them so in training."""
    found, all_of_them = sparse.layers(net), [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    run.console.print(
        f"2:4 weights in {len(found)} of {len(all_of_them)} layers (the others are grouped, frozen or have no multiple of four inputs)"
    )
    return sparse.apply(net)


def _taught(run: Run) -> Any:
    """The dense network as teacher, for the training loop's hooks."""
    teacher, task = load.dense(run), load.task(run)

    def begin(student: nn.Module, device: torch.device, layout: torch.memory_format) -> Any:
        laid = lie(teacher.to(device), layout)
        return make_term(run.recipe.finetune.distill, student, laid, len(task.classes), task.apart)

    return begin
