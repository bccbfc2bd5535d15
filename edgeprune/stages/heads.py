"""Which head ships: the fastest on the device whose masks pass the gates, on the dense network and again on the pruned one."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from edgeprune.data.subset import Spread
from edgeprune.deploy import gates as gating
from edgeprune.deploy.export import export
from edgeprune.deploy.heads import COARSE, strides
from edgeprune.deploy.parity import parity
from edgeprune.deploy.plain import plain
from edgeprune.errors import ExportError
from edgeprune.measure.miou import Evaluation
from edgeprune.recipe import Gates, Recipe
from edgeprune.runtime.onnxruntime import OnnxRuntimeEngine
from edgeprune.stages import load
from edgeprune.stages.run import Run

_IMAGES = 8  # that decide whether a coarse head may be tried
_GATES = ("miou_drop", "class_drop", "boundary_drop", "pixel_agreement")  # that it must pass


def judged_by(recipe: Recipe) -> tuple[str, ...]:
    """The gates that have a say in which head ships."""
    asked = recipe.deploy.head == "auto" and recipe.task == "segmentation"
    return tuple(f"deploy.gates.{name}" for name in _GATES) if asked else ()


def coarse_step(run: Run, net: nn.Module, home: Path) -> tuple[int, int] | None:
    """How much coarser than the image the logits are, if classes taken there pass the gates on training images; else None."""
    path, size, task = home / "head-coarse.onnx", run.recipe.data.size, load.task(run)
    try:
        export(task.shipped(plain(net, load.example(run)), COARSE), size, path, run.recipe.deploy.opset)
    except ExportError:
        return None  # nothing is resized before the argmax
    made = OnnxRuntimeEngine(path)
    step = strides(path, size)
    data = load.dataset(run, "train")
    few = Spread(data, min(_IMAGES, len(data)))
    passed = coarse_passes(
        task.evaluate(task.predictor(net), few), task.evaluate(made.predict, few), few.classes, run.recipe.deploy.gates
    )
    path.unlink()
    return step if passed else None


def coarse_passes(full: Evaluation, coarse: Evaluation, classes: list[str], limits: Gates) -> bool:
    """Do the masks of a coarse head pass the gates against those of the full one?"""
    found = parity(full, coarse, classes)
    gates = gating.at_most("miou_drop", limits.miou_drop, found["miou_difference"])
    gates += gating.at_most("class_drop", limits.class_drop, found["worst_class_difference"])
    gates += gating.at_most("boundary_drop", limits.boundary_drop, found["boundary_difference"])
    gates += gating.at_least("pixel_agreement", limits.pixel_agreement, found["pixel_agreement"])
    return all(gate.passed for gate in gates)


def shipped(run: Run, small: nn.Module) -> str:
    """The head of both graphs: what the profile found, or its best exact one where the pruned network's coarse masks do not pass."""
    found, exact = run.facts["profile"]["head"], run.facts["profile"].get("exact_head")
    if found != COARSE or exact is None or coarse_step(run, small, run.folder / "export") is not None:
        return found
    run.console.print(
        f"[yellow]head: {exact}; coarse masks pass the gates on the dense network, but not on the pruned one[/yellow]"
    )
    return exact
