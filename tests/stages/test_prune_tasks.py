"""Every method on a classifier and a detector: scored, cut under the budget, proven; what does not fit is refused."""

import numpy as np
import pytest
from rich.console import Console
from torch import nn

from edgeprune import models
from edgeprune.compatible import check_pair
from edgeprune.errors import RecipeError
from edgeprune.files import read_json, save_tensors
from edgeprune.profile.macs import count_macs
from edgeprune.prune.criteria import CRITERIA
from edgeprune.recipe import load_recipe
from edgeprune.stages import finetune, load
from edgeprune.stages.prune import prune
from edgeprune.stages.run import Run
from edgeprune.target import load_target

ARGS = {
    "classification": ["model.args={width: 8, stem: cifar}", "data.size=[16,16]", "data.args={train: 10, val: 4}"],
    "detection": ["model.args={width: 8, head: 8, extra: [8]}", "data.size=[32,48]", "data.args={train: 6, val: 2}"],
}
TAUGHT = [n for n, made in CRITERIA.items() if made.training == "must"]
LOSS = {"classification": "ce", "detection": "focal"}


def job(folder, task: str, *more: str) -> Run:
    settings = [*ARGS[task], "finetune.batch=2", "prune.batches=2", "prune.step=1", "prune.min_keep=0.02", *more]
    recipe, target = load_recipe(f"quickstart_{task}", settings), load_target("cpu")
    check_pair(recipe, target)
    run = Run(recipe, target, folder, Console(quiet=True), key="k")
    net = load.build(run)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.uniform_(m.bias, -0.3, 0.3)
    save_tensors(folder / "load" / "weights.safetensors", dict(net.state_dict()))
    run.facts["load"] = {"macs": count_macs(net, run.recipe.data.size)}
    return run


@pytest.mark.parametrize(("name", "task"), [(name, [*ARGS][n % 2]) for n, name in enumerate(CRITERIA)])  # in turn
def test_every_method_prunes_and_proves(tmp_path, name, task):
    schedule = f"{{steps: 3, batch: 2, lr: 0.001, loss: {{kind: {LOSS[task]}}}}}"
    more = [f"prune.method={name}", *([f"prune.sparsity={schedule}"] if name in TAUGHT else [])]
    if name == "mtp":
        with pytest.raises(RecipeError, match=f"mtp needs labels of segmentation, not of {task}"):
            job(tmp_path, task, *more)
        return
    run = job(tmp_path, task, *more)
    facts = prune(run)
    assert max(facts["proof"].values()) < 1e-4
    assert 0.8 * facts["budget"]["limit"] < facts["budget"]["achieved"] <= facts["budget"]["limit"]
    small = finetune.pruned(run, "prune")
    assert count_macs(small, run.recipe.data.size) == facts["macs"] == facts["budget"]["achieved"]
    with_all, cut = (models.logits_of(net(load.example(run))).shape for net in (load.dense(run), small))
    assert with_all == cut


@pytest.mark.parametrize("task", ARGS)
def test_the_knapsack_measures_how_far_answers_move(tmp_path, task):
    run = job(
        tmp_path,
        task,
        "prune.method=l1",
        "prune.allocate=knapsack",
        "prune.sensitivity_images=2",
        "prune.recovery_steps=1",
    )
    facts = prune(run)
    assert facts["macs"] <= facts["budget"]["limit"]
    curves = read_json(tmp_path / "prune" / "sensitivity.json")["curves"]
    measured = np.array([loss for curve in curves.values() for loss in curve.values()])
    assert np.isfinite(measured).all() and (measured >= -1e-6).all() and (measured > 1e-6).mean() > 0.5


@pytest.mark.parametrize(
    ("task", "setting", "said"),
    [
        ("classification", "data.evaluate={flip: true}", "data.evaluate: is for task: segmentation"),
        ("classification", "train.loss.kind=gsrl", "classification is learnt by ce, not gsrl"),
        ("classification", "train.resample=class_balanced", "which only segmentation has"),
        ("classification", "finetune.distill.features=1", "finetune.distill.features: is for task: segmentation"),
        ("classification", "deploy.head=coarse", "deploy.head: is for task: segmentation"),
        ("classification", "deploy.logits=true", "gives its logits anyway"),
        ("classification", "deploy.gates.min_miou=50", "min_miou: not of task: classification, which has top1_drop"),
        ("classification", "model.args.stem=vgg", "model.args.stem: input should be 'imagenet' or 'cifar', not 'vgg'"),
        ("detection", "train.loss.kind=ce", "detection is learnt by focal, not ce"),
        ("detection", "train.loss.class_weights=median", "focal loss has none"),
        ("detection", "train.augment.crop=[32, 32]", "leave crop out"),
        ("detection", "model.network=resnet", "resnet is for task: classification; detection has ssd"),
        ("detection", "data={name: cifar10, root: /, size: [32, 32]}", "cifar10 is for task: classification"),
    ],
)
def test_what_does_not_fit_a_task_is_one_line(tmp_path, task, setting, said):
    with pytest.raises(Exception, match=said) as fault:
        job(tmp_path, task, setting)
    assert "\n" not in str(fault.value)
