"""Every way to share a budget out also serves the closed loop of a latency budget."""

import io
from pathlib import Path

import pytest
import torch

from edgeprune import progress
from edgeprune.files import read_json
from edgeprune.prune import cost
from edgeprune.prune.blocks import find_blocks
from edgeprune.prune.criteria import CRITERIA
from edgeprune.prune.cutter import Cutter
from edgeprune.prune.groups import find_groups
from edgeprune.recipe import load_recipe
from edgeprune.stages import contest, load, recovery, sharing
from edgeprune.stages.run import Run
from edgeprune.target import load_target

TINY = ["model.network=null", "model.factory=tests.e2e.tiny:build", "data.size=[32,64]", "data.args={train: 4, val: 2}"]


class ByMacs:
    """A device whose time is its MACs."""

    def __init__(self, graph):
        self.terms = lambda near=None: [(t.groups, t.cost) for t in cost.macs(graph)]
        self.price = cost.total(cost.macs(graph))


def job(folder: Path, *settings: str) -> tuple[Run, Cutter]:
    recipe = load_recipe("quickstart", [*TINY, "budget.latency=0.5x", "prune.step=1", *settings])
    run = Run(recipe, load_target("cpu"), folder, progress.console(file=io.StringIO()))
    run.facts["profile"] = {"kind": "estimated", "step": 1}
    run.key = "k"
    torch.manual_seed(0)
    net = load.build(run).eval()
    graph = find_groups(net, load.example(run))
    criterion = CRITERIA["l2"]()
    criterion.attach(net, graph.groups)
    return run, Cutter(net, graph, criterion.scores())


@pytest.mark.parametrize(
    "settings",
    [
        ["prune.allocate=uniform"],
        ["prune.allocate=global"],
        ["prune.allocate=knapsack", "prune.worth=score"],
        ["prune.allocate=knapsack", "prune.worth=sum"],
        ["prune.allocate=auto", "prune.worth=sensitivity", "prune.recovery_steps=0"],
        ["prune.allocate=auto", "prune.worth=sensitivity", "prune.recovery_steps=1", "prune.contest_steps=0"],
        ["prune.allocate=auto", "prune.worth=sensitivity", "prune.recovery_steps=1", "prune.contest_steps=1"],
    ],
    ids=lambda s: " ".join(x.partition(".")[2] for x in s),
)
def test_widths_under_a_latency_budget(tmp_path: Path, settings: list[str]):
    run, cutter = job(tmp_path, *settings)
    graph, device = cutter.graph, ByMacs(cutter.graph)
    limit = 0.5 * device.price(graph.widths())
    share, scout = sharing.under_latency(run, cutter, 1)
    assert (scout is not None) == ("prune.contest_steps=1" in settings)
    for way in filter(None, (scout, share)):
        widths = way(device, limit)  # type: ignore[arg-type]
        assert widths.keys() == graph.widths().keys() and 0 < device.price(widths) <= limit


def test_ways_that_spend_macs_compete_under_the_devices_limit(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(contest, "_LEVEL", 1.0)
    run, cutter = job(tmp_path, "prune.allocate=auto", "prune.recovery_steps=2", "prune.contest_steps=2")
    graph, device = cutter.graph, ByMacs(cutter.graph)
    device.terms = lambda near=None: [  # whose table takes the layers around one group for nearly free
        (t.groups, (lambda w, t=t: 0.05 * t.cost(w)) if "down.0" in t.groups else t.cost) for t in cost.macs(graph)
    ]
    said = cost.total([cost.Term(*t) for t in device.terms()])
    limit, before = 0.5 * said(graph.widths()), recovery.contest
    seen = {}

    def watched(run, cutter, contestants, steps):
        seen.update(contestants)
        return before(run, cutter, contestants, steps)

    monkeypatch.setattr(recovery, "contest", watched)
    share, _ = sharing.under_latency(run, cutter, 1)
    assert 0 < said(share(device, limit)) <= limit  # type: ignore[arg-type]
    assert {"MACs, steps of 1", "MACs, steps of 2"} <= seen.keys()
    assert all(said(widths) <= limit for widths in seen.values())


def test_where_no_widths_fit_networks_with_fewer_blocks_compete(tmp_path: Path, monkeypatch):
    """What a block's removal costs is judged after a short recovery, as everything else that they weigh it against."""
    monkeypatch.setattr(sharing, "EVENED", (0.0, 100.0))
    settings = ["prune.allocate=auto", "prune.worth=sensitivity", "prune.recovery_steps=2", "prune.contest_steps=2"]
    run, cutter = job(tmp_path, "prune.min_keep=0.75", *settings)
    (block,) = find_blocks(cutter.graph).values()
    device, whole = ByMacs(cutter.graph), cutter.graph.widths()
    limit = 0.85 * device.price({**whole, **dict.fromkeys(block, 0)})
    assert limit < device.price({n: 3 * w // 4 for n, w in whole.items()})
    share, _ = sharing.under_latency(run, cutter, 1)
    widths = share(device, limit)  # type: ignore[arg-type]
    assert {n for n, w in widths.items() if not w} == block and 0 < device.price(widths) <= limit
    assert all(
        name.endswith((", fewer blocks", ", as many blocks gone as pay")) for name in run.kept["contest"]["loss"]
    )
    found = read_json(tmp_path / "prune" / "recovery.json")["loss"]
    assert {f"without {n}" for n in find_blocks(cutter.graph)} < found.keys()
    judged = run.kept.pop("judging_steps")
    again, _ = sharing.under_latency(run, cutter, 1)  # told by its notes
    near = again(device, 0.93 * device.price(widths))  # type: ignore[arg-type]
    assert {n for n, w in near.items() if not w} == block, "the loop stays around the winner"
    contested = 2 * len(run.kept["contest"]["loss"])
    assert judged - run.kept["judging_steps"] == 2 * len(find_blocks(cutter.graph)), "blocks are not looked at again"
    assert run.kept["judging_steps"] == contested + 2 * (1 + len(whole))


def test_blocks_are_not_judged_where_widths_fit(tmp_path: Path):
    run, cutter = job(tmp_path, "prune.allocate=auto", "prune.recovery_steps=2", "prune.contest_steps=2")
    device = ByMacs(cutter.graph)
    share, _ = sharing.under_latency(run, cutter, 1)
    assert all(share(device, 0.5 * device.price(cutter.graph.widths())).values())  # type: ignore[arg-type]
    assert not any(name.startswith("without") for name in read_json(tmp_path / "prune" / "recovery.json")["loss"])


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        (["prune.allocate=uniform"], "prune.allocate: knapsack"),
        (["prune.allocate=knapsack", "prune.worth=score"], "prune.worth: sensitivity"),
        (["prune.allocate=knapsack", "prune.recovery_steps=0"], "prune.recovery_steps of 1"),
        (["prune.allocate=knapsack", "finetune.steps=10"], "prune.recovery_steps of 1"),
        (["prune.allocate=knapsack", "prune.recovery_steps=1"], None),
    ],
    ids=["uniform", "score", "no recovery", "too short", "held"],
)
def test_a_contest_that_was_asked_for_and_cannot_be_held_is_said(
    tmp_path: Path, settings: list[str], needed: str | None
):
    run, cutter = job(tmp_path, "prune.contest_steps=2", *settings)
    sharing.allocator(run, cutter, 1)
    said = run.console.file.getvalue()  # type: ignore[attr-defined]
    assert (f"no contest (prune.contest_steps): it needs {needed}" in said) == (needed is not None), said
    assert ("no contest" in said) == (needed is not None)


def test_of_ways_that_are_level_the_one_without_narrow_layers_wins():
    contestants = {
        "fine": {"a": 8, "b": 64, "gone": 0},
        "coarse": {"a": 16, "b": 48, "gone": 0},
        "even": {"a": 24, "b": 24},
    }
    assert contest._winner({"fine": 0.100, "coarse": 0.104, "even": 0.11}, contestants) == "coarse"
    assert contest._winner({"fine": 0.100, "coarse": 0.106, "even": 0.11}, contestants) == "fine"
    assert contest._winner({"fine": 0.100, "same": 0.099}, contestants | {"same": contestants["fine"]}) == "same"
