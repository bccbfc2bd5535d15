"""Fine-tune: recalibrate the pruned network's norms, train it again, and say what it scores."""

from __future__ import annotations

from typing import Any

from accelerate import PartialState
from torch import nn

from edgeprune.files import save_tensors, write_json
from edgeprune.prune.artefact import restore
from edgeprune.prune.plan import read_plan, save_plan
from edgeprune.stages import load
from edgeprune.stages.run import Run
from edgeprune.train.loop import Hooks, train
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
    data = load.dataset(run, "train")
    loader = load.batches(run, cfg, recipe.seed + 1)
    cut = load.score(run, net)
    if cfg.recalibrate_batches:
        recalibrate(net.to(PartialState().device), loader.stream(), cfg.recalibrate_batches)
    recalibrated = load.score(run, net)
    run.console.print(f"pruned: mIoU {100 * cut.miou:.2f}, after recalibration {100 * recalibrated.miou:.2f}")
    teacher = load.dense(run) if cfg.distill else None
    train(
        net, loader, cfg, home, classes=len(data.classes), seed=recipe.seed + 1, title="finetune",
        hooks=Hooks(teacher=teacher, evaluate=lambda n: load.score(run, n).miou), context=run.key,
    )  # fmt: skip
    found = load.score(run, net)
    plan, network = read_plan(run.folder / "prune" / "plan.json")
    save_tensors(home / "weights.safetensors", dict(net.state_dict()))
    save_plan(home / "plan.json", plan, network)
    facts = load.facts_of(run, net, found)
    facts["miou_cut"], facts["miou_recalibrated"] = cut.miou, recalibrated.miou
    write_json(home / "pruned.json", facts)
    run.console.print(f"fine-tuned: mIoU {100 * found.miou:.2f}")
    return facts
