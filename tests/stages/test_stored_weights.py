"""What a run tells of a network is of the weights that it has stored, for layers that merge in evaluation too."""

import pytest
import torch
from rich.console import Console

from edgeprune import load as load_artefact
from edgeprune.prune.artefact import save_pruned
from edgeprune.prune.groups import find_groups
from edgeprune.prune.plan import make_plan
from edgeprune.prune.surgery import shrink
from edgeprune.recipe import load_recipe
from edgeprune.stages import fits, load
from edgeprune.stages.run import Run
from edgeprune.target import load_target
from edgeprune.train.loop import fingerprint
from tests.stages import unusual

FACTORY = "tests.stages.test_stored_weights:build"
SETTINGS = [
    f"model={{factory: '{FACTORY}', network: null}}", "data.size=[32,64]", "data.args={train: 4, val: 2}", "train.steps=4",
    "train.batch=2", "train.lr=0.05", "train.ema=0.5", "train.val_every=1",
]  # fmt: skip


def build(classes):
    net = unusual.Merges()
    net.c = unusual.Rotated(12, classes)
    return net


class StampedMerges(unusual.Merges, unusual.Stamped):
    def __init__(self, classes=5):
        super().__init__()


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(fits, "ship", lambda *args: None)
    return Run(load_recipe("quickstart", SETTINGS), load_target("cpu"), tmp_path, Console(quiet=True))


def test_a_trained_network_is_judged_as_it_is_read_back(run):
    told = load.load(run)["miou"]
    again = load.dense(run)
    assert again.c.merged and float(again.c.offset.detach().abs().max()) > 0
    assert load.score(run, again).miou == told
    fresh = build(9)
    fresh.load_state_dict(load.load_tensors(run.folder / "load" / "weights.safetensors"))
    x = torch.randn(1, 3, 32, 64)
    with torch.no_grad():
        torch.testing.assert_close(fresh.eval()(x), again(x))


@pytest.mark.parametrize("training", [True, False])
def test_an_artefact_reads_back_as_it_was(tmp_path, training):
    net = StampedMerges()
    torch.nn.init.normal_(net.c.offset)
    graph = find_groups(net, torch.zeros(1, 3, 32, 64))
    plan = make_plan(net, graph, {g.name: range(g.size // 2) for g in graph.groups if "a" in g.name})
    small = shrink(net.eval(), plan).train(training)
    save_pruned(
        tmp_path, small, plan, {"factory": "tests.stages.test_stored_weights:StampedMerges", "classes": 5, "args": {}}
    )
    x = torch.randn(1, 3, 32, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            load_artefact(tmp_path, factory="tests.stages.test_stored_weights:StampedMerges")(x), small.eval()(x)
        )


def test_a_fingerprint_is_of_the_tensors():
    net = unusual.Stamped()
    before = fingerprint(net)
    net.get_extra_state = lambda: {"made": "later"}
    assert fingerprint(net) == before
