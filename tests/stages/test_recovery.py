"""Sensitivity after a short recovery: what heals is cheap, what is lost is dear; killed and gone on."""

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from edgeprune.errors import EdgepruneError
from edgeprune.files import read_json, save_tensors
from edgeprune.prune.groups import find_groups
from edgeprune.prune.worth import Losses
from edgeprune.recipe import load_recipe
from edgeprune.stages import load, recovery, sharing
from edgeprune.stages.run import Run
from edgeprune.target import load_target


class Halves(nn.Module):
    """Two hidden layers side by side: every unit of `twice` is there twice, those of `once` are each their own."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.twice, self.once = nn.Conv2d(3, 8, 5, padding=2), nn.Conv2d(3, 8, 5, padding=2)
        self.head = nn.Conv2d(16, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cat([self.twice(x).relu(), self.once(x).relu()], 1))


SCORES = {"twice": np.arange(8.0)[::-1].copy(), "once": np.arange(8.0)[::-1].copy()}


def job(folder: Path, *more: str) -> Run:
    recipe = load_recipe(
        "quickstart",
        [
            "model.network=null", "model.args={}", "model.factory=tests.stages.test_recovery:Halves",
            "data.size=[32,64]", "data.args={train: 8, val: 2}", "finetune.batch=4", "finetune.lr=0.05",
            "finetune.steps=400", *more,
        ],
    )  # fmt: skip
    run = Run(recipe, load_target("cpu"), folder, Console(quiet=True))
    torch.manual_seed(3)
    net = load.build(run)
    with torch.no_grad():
        net.head.weight.normal_(0, 1.0)
        net.twice.weight[4:], net.twice.bias[4:] = net.twice.weight[:4], net.twice.bias[:4]
        net.head.weight[:, 4:8] = net.head.weight[:, :4]
    save_tensors(folder / "load" / "weights.safetensors", dict(net.state_dict()))
    return run


def measured(run: Run) -> Losses:
    net = load.dense(run)
    return sharing.sensitivity(run, net, find_groups(net, load.example(run)), SCORES, {})


def test_what_heals_becomes_cheap_and_what_is_lost_stays_dear(tmp_path: Path):
    found = measured(job(tmp_path))
    kept = read_json(tmp_path / "prune" / "sensitivity.json")
    before = {n: {int(k): v for k, v in c.items()} for n, c in kept["before"]["curves"].items()}
    assert kept["recovery_steps"] == 30
    share = {n: found.curves[n][4] / before[n][4] for n in before}
    assert share["twice"] < 0.5 * share["once"] <= 0.5
    for name, curve in found.curves.items():  # one factor a group
        for width, loss in curve.items():
            assert loss == pytest.approx(share[name] * before[name][width])


def test_steps_are_bounded_by_the_fine_tuning(tmp_path: Path):
    assert recovery.steps_each(job(tmp_path), 2) == 30
    assert recovery.steps_each(job(tmp_path, "finetune.steps=60"), 2) == 10
    assert recovery.steps_each(job(tmp_path, "finetune.steps=40"), 2) == 0  # too few to say anything
    assert recovery.steps_each(job(tmp_path, "finetune.steps=null", "finetune.epochs=30"), 2) == 10
    assert recovery.steps_each(job(tmp_path, "finetune.steps=40", "prune.recovery_steps=5"), 2) == 5
    measured(job(tmp_path, "prune.recovery_steps=0"))
    assert not (tmp_path / "prune" / "recovery.json").exists()


def test_a_killed_measurement_goes_on_with_the_next_layer(tmp_path: Path, monkeypatch):
    whole = measured(job(tmp_path / "whole", "prune.recovery_steps=6"))
    teach, calls = recovery._teach, []

    def killed(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        teach(*args)

    run = job(tmp_path / "cut", "prune.recovery_steps=6")
    monkeypatch.setattr(recovery, "_teach", killed)
    with pytest.raises(KeyboardInterrupt):
        measured(run)
    again = measured(run)
    assert len(calls) == 4 and again == whole
    measured(job(tmp_path / "cut", "prune.recovery_steps=7"))  # another kind: from the beginning
    assert len(calls) == 7


def test_a_loss_that_is_no_number_says_what_to_do(tmp_path: Path):
    with pytest.raises(EdgepruneError, match="recovery: the loss is .* prune.recovery_steps: 0 leaves it out"):
        measured(job(tmp_path, "finetune.lr=1e20"))
