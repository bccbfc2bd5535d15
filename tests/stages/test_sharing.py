"""Every way to share a budget out also serves the closed loop of a latency budget."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from edgeprune.prune import cost
from edgeprune.prune.criteria import CRITERIA
from edgeprune.prune.cutter import Cutter
from edgeprune.prune.groups import find_groups
from edgeprune.recipe import load_recipe
from edgeprune.stages import load, sharing
from edgeprune.stages.run import Run
from edgeprune.target import load_target

TINY = ["model.network=null", "model.factory=tests.e2e.tiny:build", "data.size=[32,64]", "data.args={train: 4, val: 2}"]


class ByMacs:
    """A device whose time is its MACs."""

    def __init__(self, graph):
        self.terms = lambda near=None: [(t.groups, t.cost) for t in cost.macs(graph)]
        self.price = cost.total(cost.macs(graph))


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
    recipe = load_recipe("quickstart", [*TINY, "budget.latency=0.5x", "prune.step=1", *settings])
    run = Run(recipe, load_target("cpu"), tmp_path, Console(file=io.StringIO()))
    run.facts["profile"] = {"kind": "estimated", "step": 1}
    run.key = "k"
    net = load.build(run).eval()
    graph = find_groups(net, load.example(run))
    criterion = CRITERIA["l2"]()
    criterion.attach(net, graph.groups)
    device = ByMacs(graph)
    limit = 0.5 * device.price(graph.widths())
    share, scout = sharing.under_latency(run, Cutter(net, graph, criterion.scores()), 1)
    assert (scout is not None) == ("prune.contest_steps=1" in settings)
    for way in filter(None, (scout, share)):
        widths = way(device, limit)  # type: ignore[arg-type]
        assert widths.keys() == graph.widths().keys() and 0 < device.price(widths) <= limit
