"""What a budget can come to, before anything is trained: on the channel graph, and on a device of our own making."""

import io
import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console

from edgeprune import pipeline
from edgeprune.devices.pairs import Pairs
from edgeprune.errors import BudgetError, OutOfReach
from edgeprune.measure.patience import Patience
from edgeprune.profile.context import Context
from edgeprune.prune.groups import find_groups
from edgeprune.recipe import Budget, load_recipe
from edgeprune.recipe.units import amount, asked
from edgeprune.stages import early, load, reach
from edgeprune.stages.asked import in_units
from edgeprune.stages.run import Run
from edgeprune.target import load_target

TINY = ["data.size=[32,64]", "data.args={train: 4, val: 2}", "prune.step=2", "model={factory: 'tests.e2e.tiny:build'}"]


def job(tmp_path, *settings: str, target: str = "cpu") -> tuple[Run, Console]:
    console = Console(record=True, file=io.StringIO(), width=400)
    return Run(load_recipe("quickstart", [*TINY, *settings]), load_target(target), tmp_path, console), console


def net_of(run: Run):
    net = load.build(run).eval()
    return net, find_groups(net, load.example(run))


class Machine:
    """Milliseconds of an engine are its parameters by `price`, and `fixed`; nothing is built."""

    def __init__(self, monkeypatch, price: float = 1e-3, fixed: float = 1.0, predicted: float = 1.0) -> None:
        self.price, self.fixed, self.built, self.busy = price, fixed, [], False
        self.spoilt = []  # for each race, what other programs do to it; the last one stays
        there = SimpleNamespace(why_not=lambda: None, layers=lambda *_: [], pairs=self.pairs)
        monkeypatch.setattr(reach, "device", lambda run: there)
        monkeypatch.setattr(reach, "load_of", lambda run: (9.0, 2) if self.busy else None)
        monkeypatch.setattr(reach, "engine_of", self.engine)
        monkeypatch.setattr(reach.context, "read", lambda *_: Context({}, 0, 0, 0))
        monkeypatch.setattr(reach, "profiler_of", lambda run: SimpleNamespace(step=lambda: 2, ensure=lambda *_: {}))
        monkeypatch.setattr(reach, "Predictor", lambda ops, moves, dense, _: Believes(self, ops, dense, predicted))

    def engine(self, run, net, home, name, head):
        self.built.append(name)
        return sum(p.numel() for p in net.parameters() if p.dim() > 1)

    def pairs(self, a, b, image, n):
        slowed, more = (self.spoilt.pop(0) if len(self.spoilt) > 1 else self.spoilt[0]) if self.spoilt else (1.0, {})
        return Pairs(
            *(np.full(n, slowed * (self.fixed + self.price * count)) for count in (a, b)), [(12, True)] * 2, **more
        )


class Believes:
    """The machine's own rule, `off` by a factor."""

    def __init__(self, machine, operations, dense, off) -> None:
        self.machine, self.layers, self.off, self.fixed = machine, operations, off, machine.fixed
        self.anchor = lambda *_: None
        self.keys = lambda widths: []

    def __call__(self, widths) -> float:
        weights = 0
        for op in (o for o in self.layers if o.signature is not None):
            k = op.signature.kernel
            weights += k[0] * k[1] * op.inputs.at(widths) * op.outputs.at(widths)
        return self.off * (self.machine.fixed + self.machine.price * weights)


@pytest.mark.parametrize("kind", ["macs", "params", "channels"])
def test_counted_budgets_below_the_narrowest_network_are_refused_with_units(tmp_path, kind):
    run, _ = job(tmp_path, f"budget.{kind}=0.01x", "prune.min_keep=0.5")
    with pytest.raises(BudgetError) as refused:
        reach.check(run)
    unit = {"macs": "MACs", "params": "parameters", "channels": "channels"}[kind]
    assert str(refused.value).startswith(f"budget.{kind}: 0.01x (") and unit in str(refused.value)
    assert "prune.min_keep 0.5" in str(refused.value)
    run, console = job(tmp_path, f"budget.{kind}=0.9x", "prune.min_keep=0.5")
    reach.check(run)
    assert "within reach" in console.export_text()


def test_what_the_allocator_reaches_is_never_refused(tmp_path):
    """The narrowest cost told is the very one that the allocator comes down to."""
    from edgeprune.prune import cost
    from edgeprune.prune.allocate import allocate

    run, _ = job(tmp_path, "budget.macs=0.4x", "prune.min_keep=0.3", "prune.step=4")
    net, graph = net_of(run)
    found = reach.of_budget(run, net, graph, "macs")
    terms, whole = cost.counted("macs", graph, graph, found.dense)
    scores = {g.name: np.arange(g.size, dtype=float) for g in graph.groups}
    price, steps = cost.total(terms), graph.steps(4)
    assert price(allocate(scores, price, found.least, min_keep=0.3, step=steps)) == found.least and whole == found.dense
    with pytest.raises(OutOfReach) as error:
        allocate(scores, price, 0.999 * found.least, min_keep=0.3, step=steps)
    assert error.value.least == found.least


def test_rounds_may_keep_a_share_of_what_the_one_before_left(tmp_path):
    once, _ = job(tmp_path, "budget.params=0.1x", "prune.min_keep=0.5")
    twice, _ = job(tmp_path, "budget.params=0.1x", "prune.min_keep=0.5", "prune.rounds=[{keep: 0.5x}]")
    least = [reach.of_budget(run, *net_of(run), "params").least for run in (once, twice)]
    assert least[1] < 0.6 * least[0]


def test_a_budget_that_the_dense_network_meets_is_told(tmp_path):
    run, console = job(tmp_path, "budget.params=1000000000")
    reach.check(run)
    assert "the dense network is within it" in console.export_text()


@pytest.mark.parametrize(
    ("budget", "word"), [("latency_ms=0.9", "do not depend on widths"), ("fps=1100", "1100 fps (0.909 ms")]
)
def test_less_than_what_no_width_changes_is_refused(tmp_path, monkeypatch, budget, word):
    machine = Machine(monkeypatch)
    run, _ = job(tmp_path, f"budget.{budget}")
    with pytest.raises(BudgetError, match="cannot be reached by pruning") as refused:
        reach.check(run)
    assert word in str(refused.value) and machine.built == ["dense"]


@pytest.mark.parametrize("off", [0.9, 1.0, 1.3])
@pytest.mark.parametrize("removal", ["never", "needed"])
def test_milliseconds_below_the_narrowest_are_refused_on_a_measurement(tmp_path, monkeypatch, off, removal):
    """Whatever the prediction is off by: just under what the narrowest engine takes is refused, just over it is not."""
    machine = Machine(monkeypatch, predicted=off)
    run, _ = job(tmp_path, "budget.latency_ms=5", f"prune.remove_blocks={removal}", "prune.min_keep=0.5")
    net, graph = net_of(run)
    least, bare = reach.narrowest(run, graph, 2, "latency_ms")
    assert (bare is None) == (removal == "never")
    small = reach._narrowest_net(run, net, graph, bare or least)
    takes = machine.fixed + machine.price * sum(p.numel() for p in small.parameters() if p.dim() > 1)
    for factor, refused in ((0.95, True), (1.05, False)):
        run, _ = job(
            tmp_path, f"budget.latency_ms={factor * takes}", f"prune.remove_blocks={removal}", "prune.min_keep=0.5"
        )
        machine.built.clear()
        if refused and off >= 1:
            with pytest.raises(BudgetError, match="cannot be reached; the smallest") as error:
                reach.check(run)
            assert f"{takes:.3f} ms" in str(error.value) and machine.built == ["dense", "narrowest"]
        elif not refused:
            reach.check(run)


def test_a_busy_device_refuses_only_what_it_would_refuse_when_quiet(tmp_path, monkeypatch):
    Machine(monkeypatch).busy = True
    run, console = job(tmp_path, "budget.latency_ms=0.9")
    reach.check(run)
    assert "at the edge of what can be reached" in console.export_text()
    run, _ = job(tmp_path, "budget.latency_ms=0.2")
    with pytest.raises(BudgetError, match="cannot be reached by pruning"):
        reach.check(run)


SPOILT = {
    "other programs cut into the pairs that are there": {"busy": 9},
    "and into pairs that were left out": {"disturbed": 30},
    "a throttled device": {"throttled": ("the processor was too hot",)},
}


@pytest.mark.parametrize("how", SPOILT.values(), ids=SPOILT.keys())
@pytest.mark.parametrize("budget", ["latency_ms=1.5", "fps=2000", "latency=0.01x"])
def test_a_disturbed_race_refuses_nothing(tmp_path, monkeypatch, how, budget):
    """Twice the time beside a neighbour that `load_of` does not call busy."""
    machine = Machine(monkeypatch)
    machine.spoilt = [(2.0, how)]
    run, console = job(tmp_path, f"budget.{budget}", "prune.min_keep=0.5")
    run.kept["patience"] = patience = Patience(print, 300, sleep=lambda seconds: None)
    reach.check(run)
    assert "whether it can be reached is not known: " in console.export_text() and patience.waited == 15
    assert machine.built.count("dense") == 3


def test_a_race_that_is_quiet_at_last_refuses(tmp_path, monkeypatch):
    Machine(monkeypatch).spoilt = [(2.0, {"busy": 9}), (1.0, {})]
    run, _ = job(tmp_path, "budget.latency_ms=0.9")
    run.kept["patience"] = patience = Patience(print, 300, sleep=lambda seconds: None)
    with pytest.raises(BudgetError, match="cannot be reached by pruning"):
        reach.check(run)
    assert patience.waited == 5


def test_a_dense_engine_that_takes_other_times_beside_the_narrowest_refuses_nothing(tmp_path, monkeypatch):
    machine = Machine(monkeypatch)
    machine.spoilt = [(1.0, {}), (1.5, {})]
    run, console = job(tmp_path, "budget.latency_ms=1.4", "prune.min_keep=0.5")
    run.kept["patience"] = Patience(print, 0)
    reach.check(run)
    assert machine.built == ["dense", "narrowest"]
    assert "is not known: the dense engine takes" in console.export_text()


def test_nothing_is_waited_for_where_no_refusal_hangs_on_it(tmp_path, monkeypatch):
    machine = Machine(monkeypatch)
    machine.spoilt = [(2.0, {"busy": 9})]
    run, console = job(tmp_path, "budget.latency=0.9x")
    reach.check(run)
    assert "within reach" in console.export_text() and machine.built == ["dense"]


def test_an_estimate_refuses_nothing(tmp_path):
    run, console = job(tmp_path, "budget.latency_ms=0.0001", target="jetson")
    reach.check(run)
    said = console.export_text()
    assert "estimated" in said and "only the device tells" in said


def test_a_run_is_refused_before_it_trains_and_a_broken_network_is_left_to_the_stages(tmp_path, monkeypatch):
    recipe = load_recipe("quickstart", [*TINY, "budget.params=0.0001x"])
    console = Console(quiet=True)
    with pytest.raises(BudgetError, match="cannot be reached"):
        pipeline.run(recipe, load_target("cpu"), tmp_path, console)
    assert not (tmp_path / "quickstart@cpu" / "load").exists()

    def broken(run):
        raise RuntimeError("no such thing")

    monkeypatch.setattr(reach, "check", broken)
    run, said = job(tmp_path)
    early.check(run, rehearsed=True)
    assert "not known yet (RuntimeError: no such thing)" in said.export_text()


def test_asking_leaves_the_training_as_it_was(tmp_path, monkeypatch):
    run, _ = job(tmp_path, "budget.params=0.5x")
    monkeypatch.setattr(reach, "told", lambda *_: str((random.random(), np.random.rand(), torch.rand(1))))  # noqa: NPY002

    def drawn(ask):
        random.seed(7), np.random.seed(7), torch.manual_seed(7)  # noqa: NPY002
        ask()
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    assert drawn(lambda: reach.check(run)) == drawn(lambda: None)


def test_the_figure_that_was_asked_for_stands_beside_ours():
    def says(limit, least, **budget):
        with pytest.raises(BudgetError) as error, in_units(Budget(**budget), 40.0, "less, to keep some free"):
            raise OutOfReach(limit, least)
        return str(error.value)

    assert says(15.68, 17.0, latency_ms=16) == (
        "budget.latency_ms: 16 ms cannot be reached; looked for was 15.680 ms, less, to keep some free; the smallest that the widths "
        "allow is 17.000 ms (0.42x of the dense engine)"
    )
    assert says(1000 / 60, 20.0, fps=60).startswith(
        "budget.fps: 60 fps (16.667 ms an image) cannot be reached; the smallest"
    )
    assert "0.2x (8.000 ms of 40.000 ms)" in says(8.0, 20.0, latency="0.2x")
    assert says(8, 20, channels=8).startswith("budget.channels: 8 channels cannot be reached")


def test_amounts_carry_their_unit():
    assert [amount("macs", v) for v in (3.79e8, 2.5e6, 900)] == ["0.379 GMACs", "2.500 MMACs", "900 MACs"]
    assert [amount("params", v) for v in (1.2e6, 950)] == ["1.200 M parameters", "950 parameters"]
    assert (
        amount("fps", 40) == "40.000 ms (25.0 fps)"
        and asked(Budget(macs="0.4x"), 1e9) == "0.4x (0.400 GMACs of 1.000 GMACs)"
    )


def test_the_plan_of_a_recipe(tmp_path, cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = [x for s in (*TINY, "prune.min_keep=0.5") for x in ("--set", s)]
    code, out, err = cli("plan", "quickstart", *settings, "--target", "jetson")
    assert code == 0, err
    assert "channels in 3 groups" in out and "narrowest network estimated at" in out
    assert out.rstrip().endswith("within reach") and list(tmp_path.iterdir()) == []
    code, out, err = cli("plan", "quickstart", *settings, "--target", "jetson", "--set", "budget.params=0.01x")
    assert code == 1 and "out of reach" in out and err.count("\n") == 1 and "prune.min_keep 0.5" in err
    code, _, err = cli("plan", "quickstart", "--set", "budget.macs=nonsense")
    assert code == 2


def test_a_plan_is_measured_where_the_device_is(tmp_path, monkeypatch, capsys):
    from edgeprune import planning

    Machine(monkeypatch)
    run, _ = job(tmp_path, "budget.latency=0.5x")
    planning.show(run.recipe, run.target)
    told = capsys.readouterr().out
    assert "untrained dense engine" in told and "1.000 ms do not hang on widths" in told and "within reach" in told


def test_the_edge_is_said_where_the_narrowest_was_not_built():
    found = reach.Reach("latency_ms", 10.0, 4.0, bare=2.0, fixed=1.0)
    words = {
        5: "within reach",
        3: "within reach only where whole blocks go",
        1.9: "at the edge",
        1.5: "out of reach",
        0.5: "out of reach",
    }
    assert all(reach._verdict(found, limit).startswith(said) for limit, said in words.items())
    built = replace(found, narrowest=2.4)
    assert reach._verdict(built, 2.3) == "out of reach" and "whole blocks" in reach._verdict(built, 2.5)
