"""The stages in their order: what each does, and what it hangs on; whatever else changes, it is not done again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgeprune.recipe import Recipe
from edgeprune.stages import bundle, deploy, finetune, heads, load, precision, profile, prune, report, verify
from edgeprune.stages.run import Run


@dataclass(frozen=True)
class Stage:
    """A stage's name, its work, and what it depends on besides the stages before it: keys of the recipe, packages."""

    name: str
    work: Callable[[Run], dict[str, Any]]
    depends: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    also: Callable[[Recipe], tuple[str, ...]] = lambda recipe: ()  # more keys that it hangs on in some recipes
    then: Callable[[Recipe], tuple[str, ...]] | None = None  # all of them in the version before, if others
    files: Callable[[Recipe], tuple[str, ...]] = lambda recipe: ()  # whose content it hangs on, besides
    always: bool = False  # done again in every run
    plans: bool = False  # what follows hangs on what it found, not on who was asked
    brought: str | None = None  # a file in the run's folder that users bring, and that the stage reads
    asks: bool = False  # the device: done again where that is within reach at last, or runs another version
    trains: bool = False  # all processes of `accelerate launch` take part; the others only in the first one


STAGES = [
    Stage("load", load.load, ("seed", "task", "model", "data", "train"), ("torch", "kornia"), trains=True),
    Stage(
        "profile", profile.profile,
        ("budget", "deploy.planned", "deploy.opset", "deploy.head", "deploy.logits", "deploy.route", "prune.step", "prune.never"),
        ("openvino",), also=heads.judged_by, asks=True, plans=True,
        then=lambda recipe: (
            "budget", "deploy.planned", "deploy.opset", "deploy.head", "deploy.logits", "deploy.route", "deploy.gates", "prune.step",
            "prune.never",
        ),
    ),
    Stage(
        "prune", prune.prune,
        ("prune", "budget", "calibration.batch", "calibration.augment", "calibration.resample", "calibration.loss"),
        also=prune.heals_by, trains=True,
        then=lambda recipe: (
            "prune", "budget", "finetune.batch", "finetune.augment", "finetune.resample", "finetune.loss",
            *(("finetune",) if prune.heals_by(recipe) else ()),
        ),
    ),
    Stage("finetune", finetune.finetune, ("finetune",), files=finetune.read_by, trains=True),
    Stage(
        "export", deploy.export, ("deploy.opset", "deploy.head", "deploy.logits"), ("onnx", "onnxscript"), also=heads.judged_by,
        then=lambda recipe: ("deploy",),
    ),
    Stage(
        "simplify", deploy.simplify, ("deploy.simplify", "deploy.planned", "deploy.route", "deploy.calibration_images"),
        ("onnxsim", "onnxruntime"), then=lambda recipe: (),
    ),
    Stage(
        "precision", precision.choose, ("deploy.precision",), ("openvino", "nncf", "onnxruntime"), also=precision.judged_by,
        asks=True, brought=deploy.RESULT,
    ),
    Stage("compile", deploy.compile, (), ("openvino", "nncf", "onnxruntime"), asks=True, brought=deploy.RESULT),
    Stage("verify", verify.verify, ("deploy.gates", "deploy.latency_runs")),
    Stage("bundle", bundle.bundle, ("deploy.parity_images",)),
    Stage("report", report.report, always=True),
]  # fmt: skip
