"""The prune stage with every method: scored, cut under the budget, proven, restored; killed and gone on; in rounds."""

import io

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from edgeprune import models, progress
from edgeprune.data.loader import Batches
from edgeprune.errors import EdgepruneError, RecipeError
from edgeprune.files import read_json, save_tensors
from edgeprune.profile.macs import count_macs
from edgeprune.prune.criteria import CRITERIA, mtp
from edgeprune.prune.groups import find_groups
from edgeprune.prune.plan import read_plan, structure_hash
from edgeprune.recipe import load_recipe
from edgeprune.stages import finetune, load, scoring, verify
from edgeprune.stages.prune import kept_whole, prune
from edgeprune.stages.run import Run
from edgeprune.target import load_target
from edgeprune.train.loop import fingerprint
from tests.forks import team
from tests.models.small import SMALL

NETWORKS = {
    "streetnet": ["model.args={width: 8, blocks: 1}"],
    "segnet": ["model.network=segnet", "model.args={widths: [[8, 8], [12, 12]]}"],
    "fastscnn": [
        "model.network=fastscnn",
        "model.args={shallow: [8, 8, 16], deep: [16, 16, 32], expand: 2, head: 16, aux: false}",
    ],
}  # residual, unpooling, several branches
SCHEDULE = "{steps: 4, batch: 2, lr: 0.01, checkpoint_every: 1}"
TAUGHT = [n for n, made in CRITERIA.items() if made.training == "must"]


def job(folder, *more: str, network: str = "streetnet") -> Run:
    """A run whose dense network is there, with norms that differ from each other."""
    settings = [
        "data.size=[32,64]", "data.args={train: 6, val: 2}", "finetune.batch=2", "prune.batches=2", "prune.step=1",
        *NETWORKS[network], *more,
    ]  # fmt: skip
    run = Run(load_recipe("quickstart", settings), load_target("cpu"), folder, Console(quiet=True), key="k")
    net = load.build(run)
    generator = torch.Generator().manual_seed(1)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.5, generator=generator)
            nn.init.uniform_(m.bias, -0.3, 0.3, generator=generator)
    save_tensors(folder / "load" / "weights.safetensors", dict(net.state_dict()))
    run.facts["load"] = {"macs": count_macs(net, run.recipe.data.size)}
    return run


def method(name: str) -> list[str]:
    sparsity = [f"prune.sparsity={SCHEDULE}"] if name in TAUGHT else []
    return [f"prune.method={name}", *sparsity]


class Killed(Exception):
    pass


@pytest.mark.parametrize("name", [*TAUGHT, "sirfp"])
def test_a_killed_training_of_a_method_ends_with_the_same_scores(tmp_path, monkeypatch, name):
    settings = [f"prune.method={name}", f"prune.sparsity={SCHEDULE}"]
    if name == "sirfp":
        settings.append("prune.args={detail: 0.4, detail_from: gradient, decay: 0.9}")

    def scores(folder):
        run = job(folder, *settings)
        net = load.dense(run)
        graph = find_groups(net, load.example(run))
        p = run.recipe.prune
        found = scoring.score(run, net, graph, scoring.Spent(), p.args, p.sparsity)
        return found, fingerprint(net)

    expected, weights = scores(tmp_path / "whole")
    stream, left = Batches.stream, 3

    def dying(self, *args):
        nonlocal left
        for batch in stream(self, *args):
            left -= 1
            if left == 0:
                raise Killed
            yield batch

    with monkeypatch.context() as m:
        m.setattr(Batches, "stream", dying)
        with pytest.raises(Killed):
            scores(tmp_path / "cut")
    assert (tmp_path / "cut" / "prune" / "checkpoint.pt").exists()
    found, again = scores(tmp_path / "cut")
    assert again == weights
    for group, values in expected.items():
        np.testing.assert_array_equal(found[group], values, err_msg=group)


@pytest.mark.parametrize("name", ["taylor", "halp"])
def test_gradients_are_taken_without_a_trace(tmp_path, name):
    run = job(tmp_path, f"prune.method={name}")
    net = load.dense(run)
    before = fingerprint(net)
    net.classifier.weight.grad = torch.ones_like(net.classifier.weight)
    graph = find_groups(net, load.example(run))
    found = scoring.score(run, net, graph, scoring.Spent(), {}, None)
    assert fingerprint(net) == before  # norm statistics, too
    assert (net.classifier.weight.grad == 1).all() and net.stem[0][0].weight.grad is None
    assert all((v > 0).any() for v in found.values())


def test_the_scores_of_a_network_with_nan_are_refused(tmp_path):
    run = job(tmp_path, "prune.method=l1")
    net = load.dense(run)
    with torch.no_grad():
        net.stem[0][0].weight[0] = torch.nan
    with pytest.raises(EdgepruneError, match="not numbers for stem.0.0"):
        scoring.score(run, net, find_groups(net, load.example(run)), scoring.Spent(), {}, None)


def test_a_network_without_norms_is_not_judged_by_their_scales(tmp_path):
    run = job(tmp_path, "prune.method=bn_scale")
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 9, 1))
    with pytest.raises(RecipeError, match="no prunable layer has one"):
        scoring.score(run, net, find_groups(net, torch.zeros(1, 3, 8, 8)), scoring.Spent(), {}, None)


def test_acosp_gives_its_a_priori_widths_under_a_channel_budget(tmp_path):
    run = job(
        tmp_path, *method("acosp"), "prune.args={keep: 0.5, least: 1}", "budget.channels=0.5x", "prune.allocate=uniform",
    )  # fmt: skip
    prune(run)
    for row in read_json(tmp_path / "prune" / "widths.json")["widths"]:
        assert row["after"] == row["before"] // 2
    for name, p in finetune.pruned(run, "prune").named_parameters():  # what the mask had silenced is what has gone
        assert p.ndim < 4 or (p.detach().flatten(1).abs().sum(dim=1) > 0).all(), name


@pytest.mark.parametrize("network", NETWORKS)
def test_two_rounds_make_one_plan_of_the_dense_network(tmp_path, network):
    rounds = f"[{{keep: 0.7x, sparsity: {SCHEDULE}, finetune: {SCHEDULE}}}]"
    run = job(
        tmp_path, "prune.method=sirfp", f"prune.sparsity={SCHEDULE}", f"prune.rounds={rounds}",
        "prune.args={detail: 0.4, detail_from: gradient}", network=network,
    )  # fmt: skip
    facts = prune(run)
    assert facts["rounds"][0]["limit"] == 0.7 and 0.6 < facts["rounds"][0]["achieved"] <= 0.7
    assert facts["budget"]["limit"] == pytest.approx(0.4 * run.facts["load"]["macs"], rel=1e-6)
    assert 0.9 * facts["budget"]["limit"] < facts["macs"] == facts["budget"]["achieved"] <= facts["budget"]["limit"]
    assert facts["training_steps"] == 12
    plan, _ = read_plan(tmp_path / "prune" / "plan.json")
    assert plan.source == structure_hash(load.dense(run))
    assert count_macs(finetune.pruned(run, "prune"), run.recipe.data.size) == facts["macs"]
    assert not list((tmp_path / "prune").rglob("round*/**/checkpoint.pt"))


def test_what_only_fvcore_counts_is_part_of_a_macs_budget(tmp_path):
    """Operators that the channel graph does not follow stay as they are: the rest has to give way to them."""
    facts = prune(run := job(tmp_path / "all", "prune.method=l2", "budget={macs: 0.4x}"))
    whole, kept = run.facts["load"]["macs"], facts["macs"]
    run = job(tmp_path / "some", "prune.method=l2", "budget={macs: 0.4x}")
    run.facts["load"]["macs"] = whole + whole // 4
    facts = prune(run)
    budget = facts["budget"]
    assert budget["dense"] == whole + whole // 4 and budget["limit"] == 0.4 * budget["dense"]
    assert facts["macs"] + whole // 4 == budget["achieved"] <= budget["limit"] and facts["macs"] < kept
    run = job(tmp_path / "less", "prune.method=l2", "budget={macs: 0.4x}")
    run.facts["load"]["macs"] = whole // 2  # an operator that fvcore does not know: by the layers alone
    run.console = progress.console(file=io.StringIO())
    assert prune(run)["budget"]["dense"] == whole and "the budget goes by the layers" in run.console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("macs", "met"), [(400, True), (404, True), (405, False)])
def test_a_counted_budget_is_judged_on_what_ships(tmp_path, macs, met):
    run = job(tmp_path)
    run.facts |= {
        "prune": {"budget": {"kind": "macs", "limit": 400, "dense": 1000, "achieved": 390}},
        "finetune": {"macs": macs},
    }
    assert verify.counted(run)["met"] is met and verify.counted(run)["achieved"] == macs


def test_what_cannot_be_pruned_is_told_with_its_reason():
    net = models.build("segformer", SMALL["segformer"], None, 7)
    lines = kept_whole(find_groups(net, torch.zeros(1, 3, 64, 96)))
    assert len(lines) == 2 and all(line.startswith("kept whole: segformer.encoder.") for line in lines)
    assert any("more (layer norm: it mixes channels)" in line for line in lines)
    assert any("attention heads" in line for line in lines)


def test_halps_knapsack_adds_up_saliencies(tmp_path):
    facts = prune(job(tmp_path, "prune.method=halp", "prune.allocate=knapsack", "prune.worth=sum"))
    assert 0.9 * facts["budget"]["limit"] < facts["macs"] <= facts["budget"]["limit"]
    assert not (tmp_path / "prune" / "sensitivity.json").exists()


def test_mtp_scores_on_every_other_step(tmp_path, monkeypatch):
    taken = []
    take = mtp.MTP._take
    monkeypatch.setattr(mtp.MTP, "_take", lambda self, task, loss: (taken.append(task), take(self, task, loss)))
    prune(job(tmp_path, *method("mtp")))
    assert taken == ["seg", "cls", "seg", "cls"]


def test_two_processes_score_alike(tmp_path):
    """Each sees its own batches, and both must come to the same channels; every gate has a gradient in every step. What they
    find is what one process finds with the doubled batch."""
    from tests.stages import two_processes

    team(two_processes.main, tmp_path, *TAUGHT, "sirfp")
    one, other = (read_json(tmp_path / f"{rank}.json") for rank in (0, 1))
    assert one["world"] == 2 and one == other
    for name, found in one["found"].items():
        alone = two_processes.scored(tmp_path / "alone", name, 4)
        for group, values in alone["scores"].items():
            np.testing.assert_allclose(found["scores"][group], values, rtol=0.02, atol=1e-4, err_msg=f"{name} {group}")


def test_of_two_processes_one_shares_the_budget_out(tmp_path):
    from tests.stages import two_shares

    team(two_shares.main, tmp_path)
    one, other = (read_json(tmp_path / f"{rank}.json") for rank in (0, 1))
    assert one == other
    for home in ("", "round1"):  # a killed run finds the notes of either cut
        assert (tmp_path / "run" / "prune" / home / "contest.json").exists()


def test_what_is_drawn_is_drawn_from_the_recipes_seed(tmp_path):
    def drawn(seed, args):
        run = job(tmp_path / str(seed), f"seed={seed}", "prune.method=random")
        net = load.dense(run)
        found = scoring.score(run, net, find_groups(net, load.example(run)), scoring.Spent(), args, None)
        return np.concatenate(list(found.values()))

    assert (drawn(3, {}) == drawn(3, {})).all() and (drawn(3, {}) != drawn(4, {})).all()
    assert (drawn(3, {"seed": 9}) == drawn(4, {"seed": 9})).all()
