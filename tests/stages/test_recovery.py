"""Sensitivity after a short recovery: what heals is cheap, what is lost is dear; killed and gone on."""

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from edgeprune.errors import EdgepruneError
from edgeprune.files import read_json, save_tensors
from edgeprune.prune.blocks import find_blocks
from edgeprune.prune.cost import Term
from edgeprune.prune.cutter import Cutter
from edgeprune.prune.groups import find_groups
from edgeprune.prune.worth import Losses
from edgeprune.recipe import load_recipe
from edgeprune.stages import contest, load, recovery, sharing
from edgeprune.stages.run import Run
from edgeprune.target import load_target


class Halves(nn.Module):
    """Two hidden layers side by side: every unit of `copies` is there four times, those of `once` are each their own."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.copies, self.once = nn.Conv2d(3, 8, 5, padding=2), nn.Conv2d(3, 8, 5, padding=2)
        self.head = nn.Conv2d(16, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cat([self.copies(x).relu(), self.once(x).relu()], 1))


SCORES = {"copies": np.arange(8.0)[::-1].copy(), "once": np.arange(8.0)[::-1].copy()}


def job(folder: Path, *more: str, halves: bool = True) -> Run:
    recipe = load_recipe(
        "quickstart",
        [
            "model.network=null", "model.args={}", "model.factory=tests.stages.test_recovery:Halves",
            "data.size=[32,64]", "data.args={train: 8, val: 2}", "finetune.batch=4", "finetune.lr=0.01",
            "finetune.steps=400", "prune.compensate=false", *more,
        ],
    )  # fmt: skip
    run = Run(recipe, load_target("cpu"), folder, Console(quiet=True))
    torch.manual_seed(3)
    net = load.build(run)
    if halves:
        _copied(net)
    save_tensors(folder / "load" / "weights.safetensors", dict(net.state_dict()))
    return run


def _copied(net: nn.Module) -> None:
    with torch.no_grad():
        net.head.weight.normal_(0, 1.0)
        for layer, rows in ((net.copies, slice(2, 8)), (net.head, (slice(None), slice(2, 8)))):
            layer.weight[rows] = torch.cat(
                [layer.weight[:2] if layer is net.copies else layer.weight[:, :2]] * 3, int(layer is net.head)
            )
        net.copies.bias[2:] = net.copies.bias[:2].repeat(3)


def measured(run: Run) -> Losses:
    net = load.dense(run)
    return sharing.sensitivity(run, Cutter(net, find_groups(net, load.example(run)), SCORES), {})


def test_what_heals_becomes_cheap_and_what_is_lost_stays_dear(tmp_path: Path):
    found = measured(job(tmp_path))
    assert found.stays["copies"] < 0.5 * found.stays["once"] <= 0.5
    assert found.power == pytest.approx(np.log(400) / np.log(30))
    for name, curve in found.after(2.0).items():
        for width, loss in curve.items():
            assert loss == pytest.approx(found.stays[name] ** 2 * found.curves[name][width])
    assert found.after(0.0) == found.curves
    kept = read_json(tmp_path / "prune" / "sensitivity.json")
    assert kept["recovery_steps"] == 30 and kept["stays"] == found.stays


def test_steps_that_only_judge_are_counted_also_where_notes_tell_what_they_found(tmp_path: Path):
    run = job(tmp_path, "prune.recovery_steps=6")
    measured(run)
    assert run.kept["judging_steps"] == 6 * 3, "the dense network and two cut ones"
    again = job(tmp_path, "prune.recovery_steps=6")
    measured(again)
    assert again.kept["judging_steps"] == 6 * 3


def test_steps_are_bounded_by_the_fine_tuning(tmp_path: Path):
    assert recovery.steps_each(job(tmp_path), 2) == 30
    assert recovery.steps_each(job(tmp_path, "finetune.steps=60"), 2) == 10
    assert recovery.steps_each(job(tmp_path, "finetune.steps=40"), 2) == 0  # too few to say anything
    assert recovery.steps_each(job(tmp_path, "finetune.steps=null", "finetune.epochs=30"), 2) == 10
    assert recovery.steps_each(job(tmp_path, "finetune.steps=40", "prune.recovery_steps=5"), 2) == 5
    measured(job(tmp_path, "prune.recovery_steps=0"))
    assert not (tmp_path / "prune" / "recovery.json").exists()


def test_behind_compensation_nothing_is_trained_to_judge_widths_unless_asked(tmp_path: Path):
    def steps(*more: str) -> tuple[int, int]:
        run = job(tmp_path, "prune.compensate=true", *more)
        return recovery.steps_each(run, 2), recovery.contest_steps(run, 4)

    assert steps() == (0, 0)
    assert steps("prune.contest_steps=20") == (30, 20), "contestants differ by losses after a recovery"
    assert steps("prune.contest_steps=20", "prune.recovery_steps=0") == (0, 20)
    assert steps("prune.recovery_steps=7") == (7, 0)
    assert measured(job(tmp_path, "prune.compensate=true")).stays == {}


def test_blocks_are_judged_after_a_short_training_also_where_widths_are_not(tmp_path: Path):
    def tried(name: str, *more: str) -> tuple[Run, Losses, dict[str, float]]:
        settings = ["model.network=streetnet", "model.args={width: 4, blocks: 1}", "model.factory=null"]
        run = job(tmp_path / name, *settings, "prune.compensate=true", "finetune.steps=400", *more, halves=False)
        net = load.dense(run)
        graph = find_groups(net, load.example(run))
        cutter, blocks = Cutter(net, graph, {g.name: np.arange(g.size) for g in graph.groups}), find_blocks(graph)
        found = sharing.sensitivity(run, cutter, blocks)
        assert run.kept.get("judging_steps") is None and set(blocks) == set(found.removed) != set()
        return run, found, sharing._removed(run, cutter, found, blocks)

    run, found, after = tried("as it is")
    cuts = len(found.curves) + len(found.removed)
    assert run.kept["judging_steps"] == recovery.short(run, len(found.curves)) * (1 + cuts) > 0
    assert after != found.removed and all(0 <= after[n] <= found.removed[n] for n in after)
    _, found, after = tried("at once", "prune.recovery_steps=0")
    assert after == found.removed


def test_a_killed_measurement_goes_on_with_the_next_layer(tmp_path: Path, monkeypatch):
    whole = measured(job(tmp_path / "whole", "prune.recovery_steps=6"))
    teach, calls = recovery.imitate, []

    def killed(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return teach(*args)

    run = job(tmp_path / "cut", "prune.recovery_steps=6")
    monkeypatch.setattr(recovery, "imitate", killed)
    with pytest.raises(KeyboardInterrupt):
        measured(run)
    again = measured(run)
    assert len(calls) == 4 and again == whole
    measured(job(tmp_path / "cut", "prune.recovery_steps=7"))  # another kind: from the beginning
    assert len(calls) == 7


def test_a_loss_that_is_no_number_says_what_to_do(tmp_path: Path):
    run = job(tmp_path)
    much = run.recipe.finetune.model_copy(update={"lr": 1e20})  # more than a recipe may say, so that it takes few steps
    run.recipe = run.recipe.model_copy(update={"finetune": much})
    with pytest.raises(EdgepruneError, match="loss of a short recovery is .* lower finetune.lr"):
        measured(run)


def test_the_contest_decides_between_ways_to_share_out_and_later_limits_stay_near(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(sharing, "EVENED", (3.0, 0.0))  # in a network of two groups nothing adds up to more
    monkeypatch.setattr(contest, "_LEVEL", 1.0)
    run = job(tmp_path, "prune.contest_steps=20", "budget.macs=null", "budget.latency_ms=1", "prune.min_keep=0.1")
    net = load.dense(run)
    graph = find_groups(net, load.example(run))
    allocate = sharing.allocator(run, Cutter(net, graph, SCORES), 1)
    terms = [Term((n,), lambda w, n=n: float(w[n])) for n in SCORES]
    found = allocate(terms, 8)
    kept = read_json(tmp_path / "prune" / "contest.json")["loss"]
    assert len(kept) >= 2
    assert run.kept["contest"] == {"steps": 20, "winner": min(kept, key=lambda n: kept[n]), "loss": kept}
    assert found["once"] > found["copies"] and sum(found.values()) == 8, "what heals makes room for what does not"
    near = allocate(terms, 9)
    assert sum(near.values()) == 9 and all(abs(near[n] - found[n]) <= max(1, 0.3 * found[n]) for n in found)
    far = allocate(terms, 14)  # a step does not reach it
    assert sum(far.values()) <= 14 and far["once"] >= found["once"]


def test_behind_a_winner_of_coarse_steps_groups_narrow_by_fine_ones(tmp_path: Path, monkeypatch):
    """Whole blocks went instead, where the coarse widths had nothing narrower."""
    coarse = lambda run, cutter, contestants, steps: {n: float("steps of 2" not in n) for n in contestants}  # noqa: E731
    monkeypatch.setattr(recovery, "contest", coarse)
    monkeypatch.setattr(sharing, "knapsack_with_removal", lambda *args: pytest.fail("blocks are tried"))
    run = job(tmp_path, "prune.contest_steps=20", "budget.macs=null", "budget.latency_ms=1", "prune.min_keep=0.1")
    net = load.dense(run)
    allocate = sharing.allocator(run, Cutter(net, find_groups(net, load.example(run)), SCORES), 1)
    terms = [Term((n,), lambda w, n=n: float(w[n])) for n in SCORES]
    assert sum(allocate(terms, 9).values()) == 9 and "steps of 2" in run.kept["contest"]["winner"]
    won = read_json(tmp_path / "prune" / "settled.json")["widths"]
    near = allocate(terms, 7)
    assert sum(won.values()) == 8 and all(w % 2 == 0 for w in won.values())
    assert sum(near.values()) == 7 and all(abs(near[n] - won[n]) <= 1 for n in won)


def test_what_a_contest_has_decided_stays_decided_after_a_kill(tmp_path: Path, monkeypatch):
    """The loop of engines measures convolutions, so that its predictor, and with it the contestants, would be others now."""
    run = job(tmp_path, "prune.contest_steps=20", "budget.macs=null", "budget.latency_ms=1", "prune.min_keep=0.1")
    net = load.dense(run)
    graph = find_groups(net, load.example(run))
    found = sharing.allocator(run, Cutter(net, graph, SCORES), 1)(
        [Term((n,), lambda w, n=n: float(w[n])) for n in SCORES], 8
    )
    decided = run.kept.pop("contest")
    monkeypatch.setattr(recovery, "contest", lambda *args: pytest.fail("the contest is held again"))
    grown = [Term((n,), lambda w, n=n: 1.07 * w[n]) for n in SCORES]
    near = sharing.allocator(run, Cutter(net, graph, SCORES), 1)(grown, 8.7)
    assert run.kept["contest"] == decided and all(abs(near[n] - found[n]) <= 1 for n in found)


def test_a_budget_that_leaves_no_choice_needs_no_contest(tmp_path: Path):
    run = job(tmp_path, "prune.contest_steps=20", "budget.macs=null", "budget.latency_ms=1", "prune.min_keep=0.1")
    net = load.dense(run)
    graph = find_groups(net, load.example(run))
    terms = [Term((n,), lambda w, n=n: float(w[n])) for n in SCORES]
    assert sharing.allocator(run, Cutter(net, graph, SCORES), 1)(terms, 1000) == graph.widths()
    assert not (tmp_path / "prune" / "contest.json").exists()


def test_without_a_contest_the_loss_after_the_fine_tuning_counts(tmp_path: Path):
    run = job(tmp_path, "prune.contest_steps=0")
    net = load.dense(run)
    allocate = sharing.allocator(run, Cutter(net, find_groups(net, load.example(run)), SCORES), 1)
    terms = [Term((n,), lambda w, n=n: float(w[n])) for n in SCORES]
    assert sum(allocate(terms, 8).values()) == 8 and not (tmp_path / "prune" / "contest.json").exists()


def test_new_statistics_alone_are_no_loss(tmp_path: Path, monkeypatch):
    """A cut that the answers do not hang on costs nothing, however far recalibration moves them."""
    run = job(tmp_path, "prune.recovery_steps=0")
    net = load.dense(run)
    net.head.weight.data[:, :8] = 0
    net = nn.Sequential(nn.BatchNorm2d(3), net)
    net[0].running_mean.fill_(0.7)  # of other images than these
    graph = find_groups(net.eval(), load.example(run))
    scores = {g.name: np.arange(8.0) for g in graph.groups}
    found = sharing.sensitivity(run, Cutter(net, graph, scores), {})
    assert max(found.curves["1.copies"].values()) < 1e-6 < 1e-3 < found.curves["1.once"][2]
