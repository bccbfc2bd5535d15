"""Load: the data sets, the dense network (from a checkpoint, or trained here), and what it scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import nn

from edgeprune import models
from edgeprune.data import open_dataset
from edgeprune.data.dataset import Size
from edgeprune.data.labels import KINDS, unfit
from edgeprune.data.loader import Batches, train_loader
from edgeprune.data.transforms import Normalisation
from edgeprune.errors import DataError, RecipeError, few
from edgeprune.files import load_tensors, save_tensors, write_json
from edgeprune.measure import protocol
from edgeprune.measure.miou import evaluate
from edgeprune.models.outputs import choose, logits_of
from edgeprune.models.state import load_weights, weights_of
from edgeprune.profile.macs import count_macs, count_params
from edgeprune.progress import Progress, console, doing
from edgeprune.stages import fits, rehearsal
from edgeprune.stages.first_graph import Shipping
from edgeprune.stages.run import Run
from edgeprune.tasks import TASKS, Task
from edgeprune.train.command import trained_by
from edgeprune.train.loop import Hooks, train


def task(run: Run) -> Task:
    """The recipe's task; made once a process."""
    if "task" not in run.kept:
        classes, size = dataset(run, "train").classes, run.recipe.data.size
        run.kept["task"] = TASKS[run.recipe.task](classes, size, lambda: build(run), normalisation(run))
    return run.kept["task"]


def normalisation(run: Run) -> Normalisation:
    """What the network's images are normalised by."""
    return Normalisation(run.recipe.data.mean, run.recipe.data.std)


def dataset(run: Run, split: str) -> Any:
    """The recipe's data set at `data.size`; opened once a process."""
    if split not in run.kept:
        run.kept[split] = _opened(run, split, run.recipe.data.size)
    return run.kept[split]


def batches(run: Run, cfg: Any, seed: int) -> Batches:
    """The training batches of a schedule (`recipe.Train`).

    Views are cut from images at `data.size`, or with their own shape where there is a `data.train_short_side`.
    """
    d = run.recipe.data
    data = dataset(run, "train")
    if d.train_short_side is not None:
        if "train, own shape" not in run.kept:
            run.kept["train, own shape"] = _opened(run, "train", d.train_short_side)
        data = run.kept["train, own shape"]
    move, known = KINDS[run.recipe.task].move, run.kept.get("balance")
    found = train_loader(data, cfg, seed, d.workers, crop=d.size, move=move, balance=known, by=normalisation(run))
    run.kept["balance"] = known or found.balance
    return found


def _opened(run: Run, split: str, size: Size) -> Any:
    d = run.recipe.data
    return open_dataset(
        d.name, d.root, split, size, limit=d.train_images if split == "train" else d.val_images, **d.args
    )


def build(run: Run) -> nn.Module:
    """The dense network, freshly initialised from the recipe's seed."""
    spec = network_spec(run)
    torch.manual_seed(run.recipe.seed)
    return models.build(**spec)


def network_spec(run: Run) -> dict[str, Any]:
    """What `models.build` needs; it stands in plan.json too."""
    m = run.recipe.model
    spec = {"network": m.network, "args": m.args, "factory": m.factory, "classes": len(dataset(run, "train").classes)}
    if "output" not in run.kept:
        run.kept["output"] = _output(run, spec)
    return spec if run.kept["output"] is None else spec | {"output": run.kept["output"]}


def _output(run: Run, spec: dict[str, Any]) -> list[str] | None:
    """Which output ships, in evaluation and in training; None where its form alone tells, as with ours.

    Raises:
        ModelError: several may; or none does.
    """
    asked = run.recipe.model.output
    if spec["factory"] is None and asked is None:
        return None
    torch.manual_seed(run.recipe.seed)
    net = models.build(**spec)
    small = fits.smaller(net, example(run))
    found = choose(*fits.answers(net, small), run.recipe.task, spec["classes"], asked, tuple(small.shape))
    return None if found is None else [found.evaluation, found.training]


def dense(run: Run) -> nn.Module:
    """The trained dense network of this run."""
    net = build(run)
    load_weights(net, load_tensors(run.folder / "load" / "weights.safetensors"))
    return net.eval()


@doing("judging the network")
def score(run: Run, net: nn.Module) -> Any:
    """The task's evaluation on the validation images, by the protocol `data.evaluate` where there is one."""
    cfg, size, before = run.recipe.data.evaluate, run.recipe.data.size, next(net.parameters()).device
    try:
        net.to(PartialState().device)
        if cfg is None:
            return task(run).evaluate(task(run).predictor(net), dataset(run, "val"))
        predict = protocol.predictor(net, cfg, size, normalisation(run))
        if not cfg.native:
            return evaluate(predict, dataset(run, "val"), keep=False)
        if "val, native" not in run.kept:
            run.kept["val, native"] = _opened(run, "val", None)
        return evaluate(predict, run.kept["val, native"], batch=1, keep=False)
    finally:
        net.to(before)


def hooks(run: Run, **more: Any) -> Hooks:
    """The training loop's hooks, with validations by the task's metric."""
    return Hooks(evaluate=lambda n: score(run, n).score, metric=task(run).metric.name, **more)


def facts_of(run: Run, net: nn.Module, found: Any) -> dict[str, Any]:
    """A network's row of the report; `evaluate` says by which protocol, where it is not the engine's own."""
    cfg = run.recipe.data.evaluate
    return {
        **({} if cfg is None else {"evaluate": cfg.model_dump(mode="json")}),
        **task(run).row(found),
        "params": count_params(net, run.recipe.data.size),
        "macs": count_macs(net, run.recipe.data.size),
        "input": list(run.recipe.data.size),
    }


def example(run: Run) -> torch.Tensor:
    """An input of the recipe's size, for tracing."""
    return torch.zeros(1, 3, *run.recipe.data.size)


def _read_through(run: Run, split: str, most: int = 2000) -> None:
    """Read every image once (of large sets as many as `most`, spread evenly), so that a faulty file is named now and not after hours of
    training; and say which classes no label holds.

    Raises:
        DataError: a faulty file; a split in which nothing is judged; a training set in which only one of several classes is.
    """
    data = dataset(run, split)
    count, holders = min(len(data), most), np.zeros(len(data.classes), np.int64)
    with Progress(f"reading {split}", count, unit="images") as bar:
        for number in range(count):
            holders += KINDS[run.recipe.task].count(data[number * len(data) // count][1], len(holders))[:-1] > 0
            bar.move(1)
    if fault := unfit(run.recipe.task, split, data.classes, holders, count):
        raise DataError(fault)
    if not (never := [name for name, found in zip(data.classes, holders, strict=True) if not found]):
        return
    run.console.print(f"{split}: none of {count} labels holds {few(never)}", style="yellow", markup=False)


def _weights(run: Run, net: nn.Module) -> None:
    """Those that the recipe names, read in training mode.

    Raises:
        RecipeError: something of the network would stay as it was made at random.
    """
    model, train = run.recipe.model, run.recipe.train
    net.train()
    if model.checkpoint:
        found = models.load_checkpoint(net, Path(model.checkpoint), model.checkpoint_head, model.checkpoint_key)
        left = found.left
        if left and train is None:
            raise RecipeError(
                f"model.checkpoint: {few(left)} are of another number of classes and were left out, so train must be given to "
                "teach them"
            )
        if left:
            run.console.print(f"left out of {model.checkpoint}: {few(left)}", markup=False, soft_wrap=True)
        _noted(run, model.checkpoint, found)
    elif train is None:
        raise RecipeError("model.checkpoint and train are both missing: give a checkpoint or a training schedule")
    elif model.backbone_checkpoint:
        found = models.load_backbone(net, Path(model.backbone_checkpoint), model.checkpoint_key)
        run.console.print(
            f"backbone: {found.count} tensors of {model.backbone_checkpoint}", markup=False, soft_wrap=True
        )
        _noted(run, model.backbone_checkpoint, found)


def _noted(run: Run, path: str, found: models.Loaded) -> None:
    for note in found.notes:
        run.console.print(f"of {path}: {note}", markup=False, soft_wrap=True)


def _wanted(run: Run) -> fits.Wanted:
    """What the network is rehearsed for, on labels that are made up."""
    recipe, asked = run.recipe, task(run)
    cfg, count = recipe.train or recipe.calibration, len(asked.classes)
    loss = rehearsal.mean_square
    if recipe.task != "detection":  # whose anchors are those of data.size
        spared = asked.loss(cfg.loss.model_copy(update={"class_weights": "none"}), dataset(run, "train"))

        def loss(output: Any, images: torch.Tensor) -> torch.Tensor:
            shape = images[:, 0].shape if recipe.task == "segmentation" else images.shape[:1]
            possible = _unmasked(logits_of(output), count)
            return spared(output, possible[torch.arange(math.prod(shape)) % len(possible)].view(shape))

    return fits.Wanted(
        build=lambda: build(run),
        loss=loss,
        channels_last=cfg.channels_last,
        shipped=lambda net: asked.shipped(net, asked.heads[0], True),
        shipping=Shipping(run.target, recipe.deploy.opset, recipe.deploy.simplify),
    )


def _unmasked(logits: torch.Tensor, count: int) -> torch.Tensor:
    """The classes with finite logits (B, count, ...): one masked by -inf has an infinite loss and no label. All where none is."""
    finite = logits.detach().isfinite().transpose(0, 1).flatten(1).all(1)
    return finite.nonzero().flatten() if finite.any() else torch.arange(count)


def _unlike(taught: Sequence[str], judged: Sequence[str]) -> str:
    """Where two lists of classes part."""
    number = next((i for i, (a, b) in enumerate(zip(taught, judged, strict=False)) if a != b), None)
    return f"{len(taught)} and {len(judged)} of them" if number is None else f"the first that differs is class {number}"


def rehearse(run: Run) -> None:
    """Read the data through and send the untrained network the whole way once: what would fail only after hours fails now.

    Raises:
        DataError, ModelError, SurgeryError, ExportError, RecipeError: it would.
    """
    recipe = run.recipe
    _weights(replace(run, console=console(quiet=True)), build(run))  # seconds, before what takes more
    for split in ("train", "val"):
        _read_through(run, split)
    taught, judged = (dataset(run, split).classes for split in ("train", "val"))
    if taught != judged:
        raise DataError(
            f"data: training has the classes {few(taught)}, validation {few(judged)} ({_unlike(taught, judged)}); both must number "
            "them alike"
        )
    for line in fits.check(build(run), example(run), recipe.task, taught, recipe.prune.never, _wanted(run)):
        run.console.print(line, style="yellow", markup=False, soft_wrap=True)
    if run.kept["output"]:
        run.console.print(
            f"of the network's outputs ships: {run.kept['output'][0] or 'the one of evaluation'}", markup=False
        )
    run.kept["rehearsed"] = True


def load(run: Run) -> dict[str, Any]:
    """Train or read the dense network; writes `load/weights.safetensors` and `load/dense.json`."""
    recipe, home = run.recipe, run.folder / "load"
    if "rehearsed" not in run.kept:
        rehearse(run)
    net = build(run)
    _weights(run, net)
    if recipe.train is not None and recipe.train.command:
        trained = trained_by(recipe.train.command, {"trained": home / "trained.weights"}, "trained", "train.command")
        _noted(run, str(trained), models.load_checkpoint(net, trained))
        trained.unlink()  # what it held is in the stage's own file
    elif recipe.train is not None:
        loader = batches(run, recipe.train, recipe.seed)
        loss = task(run).loss(recipe.train.loss, loader.data)
        train(
            net, loader, recipe.train, home, loss=loss, seed=recipe.seed, title="dense", hooks=hooks(run),
            context=run.key,
        )  # fmt: skip
    save_tensors(home / "weights.safetensors", weights_of(net))
    net = dense(run)  # what is told is of the weights that were stored
    found = score(run, net)
    facts = facts_of(run, net, found)
    write_json(home / "dense.json", facts)
    run.console.print(
        f"dense: {task(run).metric.name} {100 * found.score:.2f}, {facts['params']:,} parameters, {facts['macs'] / 1e9:.3f} GMACs"
    )
    return facts
