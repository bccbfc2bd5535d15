"""The closed loop on a device of our own making: what it believes, what it builds, when it stops, what it says."""

import inspect
import io
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console
from torch import nn

from edgeprune import progress
from edgeprune.devices.pairs import Pairs
from edgeprune.errors import BudgetError
from edgeprune.files import read_json
from edgeprune.measure.belief import Known, NotBelieved, believed
from edgeprune.measure.patience import Patience
from edgeprune.measure.race import race
from edgeprune.profile.context import Context
from edgeprune.prune.cutter import Cutter
from edgeprune.recipe import Budget
from edgeprune.stages import latency, profile, verify

DENSE = 100.0


class Predictor:
    """Believes that time is the sum of the widths; learns by a factor."""

    def __init__(self):
        self.factor, self.fixed, self.layers, self.seen = 1.0, 5.0, [], []

    def __call__(self, widths):
        return self.factor * sum(widths.values())

    def learn(self, widths, ms, context=None):
        self.factor = ms / sum(widths.values())
        self.seen.append(ms)

    def learnt(self):
        return {"factor": self.factor, "seen": self.seen}

    def recall(self, learnt):
        self.factor, self.seen = learnt["factor"], list(learnt["seen"])


def loop(
    monkeypatch, tmp_path, budget, truth, spread=0.004, options=range(1, 101), killed_at=None, console=None, key="k",
    scout=None,
):  # fmt: skip
    """Run `meet` where an engine of width w takes truth(w) ms, with an interval of `spread` either way."""
    built = []

    def measure(run, cutter, widths, predicted, number):
        if number == killed_at:
            raise KeyboardInterrupt
        ms = truth(widths["a"])
        built.append(widths["a"])
        limit = latency.limit_of(run, DENSE)
        return latency.Tried(
            dict(widths), predicted, limit, ms, ms * (1 - spread), ms * (1 + spread), {"dense_ms": DENSE}, "f32", 0.0
        )

    def allocate(predictor, limit):
        fitting = [w for w in options if predictor({"a": w}) <= limit]
        if not fitting:
            raise BudgetError("budget: cannot be reached")
        return {"a": max(fitting)}

    predictor = Predictor()
    monkeypatch.setattr(latency, "_measure", measure)
    monkeypatch.setattr(latency, "_profiled", lambda run, number: Context({}, 0, 0, 0))
    monkeypatch.setattr(latency, "measure_exactly", lambda *args: None)
    monkeypatch.setattr(latency, "predictor_of", lambda run, graph: predictor)
    run = SimpleNamespace(
        recipe=SimpleNamespace(budget=Budget(**budget)), folder=tmp_path, console=console or Console(quiet=True), kept={},
        key=key, facts={"profile": {"kind": "measured", "dense_ms": DENSE, "step": 1}},
    )  # fmt: skip
    graph = SimpleNamespace(widths=lambda: {"a": 100})
    return latency.meet(run, Cutter(nn.Identity(), graph, {}), allocate, scout), built  # type: ignore[arg-type]


@pytest.mark.parametrize("bias", [0.8, 0.95, 1.0, 1.1, 1.3])
@pytest.mark.parametrize("budget", [{"latency": "0.5x"}, {"latency_ms": 50}, {"fps": 20}])
def test_a_biased_predictor_is_corrected(monkeypatch, tmp_path, bias, budget):
    (widths, said), built = loop(monkeypatch, tmp_path, budget, lambda w: bias * w)
    assert said["ci95"][1] <= said["limit"] == 50
    assert said["used"] >= 0.96 and said["ci95"][1] <= 0.99 * 50 and len(built) <= 3 == max(3, said["engines_built"])
    assert widths == {"a": built[-1]}
    history = read_json(tmp_path / "prune" / "latency.json")["engines"]
    assert [e["widths"]["a"] for e in history] == built and sum(e["chosen"] for e in history) == 1


def test_the_first_engine_of_a_contest_only_teaches(monkeypatch, tmp_path):
    """`allocate` is asked when the predictor knows the device; what the scout came to is not shipped, although it is wider."""
    (widths, said), built = loop(
        monkeypatch,
        tmp_path,
        {"latency_ms": 50},
        lambda w: 1.3 * w,
        options=[20, 36, 40],
        scout=lambda p, limit: {"a": 37},
    )
    assert built == [37, 36] and widths == {"a": 36} and said["engines_built"] == 2
    history = read_json(tmp_path / "prune" / "latency.json")["engines"]
    assert [e["scout"] for e in history] == [True, False] and [e["chosen"] for e in history] == [False, True]


def test_what_the_first_engine_taught_may_be_what_is_wanted(monkeypatch, tmp_path):
    (widths, said), built = loop(
        monkeypatch, tmp_path, {"latency_ms": 50}, lambda w: 1.32 * w, scout=lambda predictor, limit: {"a": 37}
    )
    assert built == [37] and widths == {"a": 37} and said["engines_built"] == 1, "it is not built twice"
    assert read_json(tmp_path / "prune" / "latency.json")["engines"][0]["chosen"]


def test_a_loop_that_was_killed_behind_its_scout_knows_it(monkeypatch, tmp_path):
    def scout(predictor, limit):
        return {"a": 37}

    with pytest.raises(KeyboardInterrupt):
        loop(
            monkeypatch, tmp_path, {"latency_ms": 50}, lambda w: 1.3 * w, options=[20, 36, 40], scout=scout, killed_at=2
        )
    (widths, said), built = loop(
        monkeypatch, tmp_path, {"latency_ms": 50}, lambda w: 1.3 * w, options=[20, 36, 40], scout=scout
    )
    assert built == [36] and widths == {"a": 36} and said["engines_built"] == 2


def test_an_interval_that_reaches_over_the_limit_does_not_count(monkeypatch, tmp_path):
    (_, said), _ = loop(monkeypatch, tmp_path, {"latency_ms": 50}, lambda w: float(w), spread=0.02)
    assert said["ci95"][1] <= 50 and said["achieved"] < 49.1


@pytest.mark.parametrize(("options", "built", "chosen"), [([40, 48, 49], [49, 48], 48), ([40, 49], [49, 40], 49)])
def test_an_engine_without_a_margin_is_taken_only_where_the_next_leaves_much_unused(
    monkeypatch, tmp_path, options, built, chosen
):
    """Of 49 the engine takes 49.8 of 50: within the budget now, and at another hour not."""
    (widths, said), tried = loop(monkeypatch, tmp_path, {"latency_ms": 50}, lambda w: 1.016 * w, options=options)
    assert tried == built and widths == {"a": chosen}
    assert said["ci95"][1] <= 50


def test_coarse_steps_take_the_widest_that_fits(monkeypatch, tmp_path):
    (widths, said), built = loop(
        monkeypatch, tmp_path, {"latency_ms": 50}, lambda w: float(w), options=[16, 40, 64, 96]
    )
    assert widths == {"a": 40} and said["used"] < 0.96
    assert built == [40], "nothing new is built where no other width fits"


def test_a_device_that_never_meets_it_is_an_error(monkeypatch, tmp_path):
    rng = np.random.default_rng(0)
    with pytest.raises(BudgetError, match=r"not met by \d engines; the nearest measured"):
        loop(monkeypatch, tmp_path, {"latency_ms": 50}, lambda w: 52 + 0.01 * w + rng.random())
    assert len(read_json(tmp_path / "prune" / "latency.json")["engines"]) <= latency.LAST_RESORT


def test_less_than_what_pruning_cannot_touch_is_refused_before_anything_is_built(monkeypatch, tmp_path):
    with pytest.raises(BudgetError, match=r"5.000 ms of the dense engine's 100.000"):
        loop(monkeypatch, tmp_path, {"latency_ms": 4}, lambda w: float(w))
    assert not (tmp_path / "prune").exists()


def test_a_loop_that_was_killed_goes_on_with_its_next_engine(monkeypatch, tmp_path):
    def truth(w):
        return 1.3 * w

    with pytest.raises(KeyboardInterrupt):
        loop(monkeypatch, tmp_path, {"latency_ms": 50}, truth, killed_at=2)
    first = read_json(tmp_path / "prune" / "latency.json")["engines"]
    assert len(first) == 1 and not first[0]["met"]
    (widths, said), built = loop(monkeypatch, tmp_path, {"latency_ms": 50}, truth)
    assert said["engines_built"] == 1 + len(built) and first[0]["widths"]["a"] not in built
    engines = read_json(tmp_path / "prune" / "latency.json")["engines"]
    assert engines[0] == first[0] and engines[-1]["widths"] == widths and engines[-1]["chosen"]
    (_, whole), _ = loop(monkeypatch, tmp_path / "elsewhere", {"latency_ms": 50}, truth)
    assert whole == said, "as if it had never been killed"


def test_notes_of_another_loop_and_of_one_that_has_ended_are_not_gone_on_from(monkeypatch, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        loop(monkeypatch, tmp_path, {"latency_ms": 50}, lambda w: 1.3 * w, killed_at=2)
    (_, said), built = loop(monkeypatch, tmp_path, {"latency_ms": 50}, lambda w: 1.3 * w, key="another recipe")
    assert said["engines_built"] == len(built)
    _, again = loop(monkeypatch, tmp_path, {"latency_ms": 50}, lambda w: 1.3 * w, key="another recipe")
    assert again == built, "the machine may be quieter now"


def test_it_says_how_far_its_predictions_were_off(monkeypatch, tmp_path):
    (_, said), _ = loop(monkeypatch, tmp_path, {"latency_ms": 50}, lambda w: 1.25 * w)
    assert said["prediction"]["engines"] == said["engines_built"]
    assert said["prediction"]["worst"] == pytest.approx(0.2) and said["prediction"]["mape"] < 0.2


@pytest.mark.parametrize("budget", [{"latency_ms": 5000}, {"fps": 0.5}])
def test_a_budget_wider_than_the_dense_engine_prunes_nothing_and_says_so(monkeypatch, tmp_path, budget):
    console = progress.console(file=io.StringIO())
    (widths, said), built = loop(monkeypatch, tmp_path, budget, lambda w: float(w), console=console)
    assert widths == {"a": 100} and built == [100] and said["ci95"][1] <= said["limit"]
    assert "the dense network is within the budget" in console.file.getvalue()


@pytest.mark.parametrize(("load", "said"), [(9.0, True), (2.1, False), (None, False)])
def test_a_device_that_is_busy_with_other_work_is_told_of(monkeypatch, load, said):
    there = SimpleNamespace(fingerprint=lambda: {"cores": 2, "load_1min": load})
    monkeypatch.setattr(profile, "device", lambda run: there)
    console = progress.console(file=io.StringIO())
    profile._warn_of_load(SimpleNamespace(console=console))  # type: ignore[arg-type]
    assert ("the device is busy (load 9.0 on 2 cores)" in console.file.getvalue()) == said


def test_a_race_goes_on_until_it_can_tell():
    rng = np.random.default_rng(0)
    taken = []

    def noisy(spread):
        def take(n):
            taken.append(n)
            return Pairs(2 + spread * rng.random(n), 1 + spread * rng.random(n), [(12, True), (12, True)])

        return take

    quiet = race(noisy(0.001), pairs=10)
    assert sum(taken) == 10 and quiet.low <= 0.5 <= quiet.high + 1e-3
    taken.clear()
    rough = race(noisy(0.5), pairs=10, most=640)
    assert 10 < sum(taken) <= 640 and len(rough.slow) == sum(taken) and rough.low < rough.share < rough.high
    taken.clear()
    early = race(noisy(0.5), pairs=10, most=640, decided=True)
    assert sum(taken) == 10 and early.high < 1, "half the time is faster, by however much"
    taken.clear()

    def even(n):
        taken.append(n)
        return Pairs(1 + rng.random(n), 1 + rng.random(n), [(12, True), (12, True)])

    race(even, pairs=10, most=640, decided=True)
    assert sum(taken) == 640, "as fast as each other: nothing is decided early"


def test_a_race_on_a_board_takes_more_at_a_time(monkeypatch):
    """Loading both engines there takes seconds and a pair milliseconds: twenty pairs at a time would be waiting for nothing."""
    clock, taken, rng = [0.0], [], np.random.default_rng(0)
    monkeypatch.setattr("edgeprune.measure.race.time.perf_counter", lambda: clock[0])

    def take(n):
        taken.append(n)
        clock[0] += 2.0 + n * 0.003
        return Pairs(2 + 0.5 * rng.random(n), 1 + 0.2 * rng.random(n), [(12, True), (12, True)])

    inspect.unwrap(race)(take, pairs=20, most=2000, seconds=2)
    assert taken[:3] == [20, 80, 400] and len(taken) <= 4


@pytest.mark.parametrize(
    ("expected", "slowed", "taken", "believes"),
    [
        (0.5, [1.1, 1.0, 1.0], 3, 0.5),  # the first sitting was disturbed
        (0.5, [1.1, 1.1, 1.1], 3, 0.55),  # it was not: the engine is slower than expected
        (0.5, [0.9, 1.0, 1.0], 3, 0.5),  # and a dense engine that was slowed is no better
        (0.5, [1.02, 1.0, 1.0], 1, 0.51),  # as predictions go
        (None, [1.1, 1.0, 1.0], 1, 0.55),
    ],
)
def test_an_engine_that_contradicts_what_was_learnt_is_timed_again(expected, slowed, taken, believes):
    sittings = iter(slowed)

    def sitting():
        pace = next(sittings)
        return race(lambda n: Pairs(np.full(n, 2.0), np.full(n, pace), [(12, True), (12, True)]))

    assert believed(sitting, Known(expected, 0.03), Patience(print, 0)).share == pytest.approx(believes)
    assert len(slowed) - len(list(sittings)) == taken


@pytest.mark.parametrize(("budget", "narrow"), [(Budget(latency="0.5x"), True), (Budget(latency_ms=5.0), False)])
def test_an_absolute_budgets_interval_is_of_the_engines_own_milliseconds(budget, narrow):
    """Where both engines slow down together, their ratio stays, and milliseconds do not."""
    pace = np.repeat(np.random.default_rng(0).normal(1, 0.1, 10), 8)
    run = SimpleNamespace(recipe=SimpleNamespace(budget=budget))
    pairs = Pairs(10 * pace, 5 * pace, (np.ones(1), np.ones(1)), 0)
    ms, low, high = latency.milliseconds(run, race(lambda n: pairs, pairs=80, most=80), 10.0)
    assert ms == pytest.approx(5.0, rel=0.1) and low <= ms <= high
    assert (high - low < 0.01) == narrow and (high - low > 0.1) != narrow


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"share": 0.49, "precision": "f32"}, 0.49),
        ({"share": 0.49, "precision": "int8"}, None),  # another precision was chosen since
        ({"estimated": True}, None),
        ({}, None),  # a budget that is counted
    ],
)
def test_the_engine_that_ships_is_expected_to_take_what_the_loop_measured(told, expected):
    run = SimpleNamespace(facts={"prune": {"budget": {"kind": "latency", **told}}})
    assert verify._expected(run, "f32") == expected  # type: ignore[arg-type]


def verified(run, times, monkeypatch):
    """What the engine that ships is judged by, where the dense one and it take these milliseconds."""
    monkeypatch.setattr(verify, "patience_of", lambda run: Patience(print, 300, sleep=lambda seconds: None))
    pace = np.tile([1.0, 1.001], 10)
    sitting = lambda: race(lambda n: Pairs(times[0] * pace, times[1] * pace, [(12, True)] * 2), most=1)  # noqa: E731
    found = verify._believed(run, sitting, "f32")
    return found.throttled, verify._budget(run, found)["met"], run.console.export_text()


@pytest.mark.parametrize(
    ("budget", "times", "met"),
    [
        ({"latency_ms": 30}, (40, 24), True),  # planned on battery, measured on mains
        ({"fps": 35}, (40, 26), True),
        ({"latency_ms": 30}, (100, 40), False),  # the other way round: over the budget, and that is why
        ({"latency": "0.6x"}, (20, 11.8), True),
    ],
)
def test_a_pace_that_is_not_the_loops_fails_no_gate(monkeypatch, budget, times, met):
    told = {"kind": next(iter(budget)), "dense": 60.0, "share": 0.6, "precision": "f32"}
    run = SimpleNamespace(
        recipe=SimpleNamespace(budget=Budget(**budget)), facts={"prune": {"budget": told}, "profile": {"dense_ms": 60.0}},
        console=Console(record=True, file=io.StringIO(), width=300),
    )  # fmt: skip
    throttled, found, said = verified(run, times, monkeypatch)
    assert throttled == () and found == met and "it is judged at the pace of today" in said


def test_the_engine_that_ships_is_held_against_the_profile_that_the_loop_took_again(monkeypatch):
    """The first one's milliseconds are another pace's; a process that was killed in between finds them in the manifest."""
    told = {"kind": "latency_ms", "dense": 40.0, "share": 0.6, "precision": "f32"}
    run = SimpleNamespace(
        recipe=SimpleNamespace(budget=Budget(latency_ms=25)), console=Console(record=True, file=io.StringIO()),
        facts={"prune": {"budget": told}, "profile": {"dense_ms": 60.0}},
    )  # fmt: skip
    assert verified(run, (40, 24), monkeypatch) == ((), True, "")


def test_a_killed_loop_finds_the_profile_that_was_taken_again(monkeypatch, tmp_path):
    """And its engines, whose notes hang on that profile."""

    def measured(run, head, home):
        return {"kind": "measured", "dense_ms": 40.0, "step": 1}

    monkeypatch.setattr(profile, "_measured", measured)
    monkeypatch.setattr(profile, "find_groups", lambda *args: SimpleNamespace(operations=[], widths=dict))
    monkeypatch.setattr(
        profile, "profiler_of", lambda run: SimpleNamespace(where=1, table=SimpleNamespace(forget=print))
    )
    for name in ("dense", "example"):
        monkeypatch.setattr(profile.load, name, lambda run: None)

    def job(key="k"):
        facts = {"profile": {"kind": "measured", "head": "argmax", "dense_ms": 60.0, "step": 1}}
        recipe = SimpleNamespace(prune=SimpleNamespace(never=[]), budget=Budget(latency_ms=50))
        return SimpleNamespace(
            recipe=recipe, folder=tmp_path, key=key, facts=facts, console=Console(quiet=True), kept={}
        )

    first, resumed, other = job(), job(), job("another")
    profile.again(first)  # type: ignore[arg-type]
    for run in (resumed, other):
        profile.take_renewed(run)  # type: ignore[arg-type]
    assert resumed.facts == first.facts and resumed.facts["profile"]["dense_ms"] == 40 and other.facts != first.facts
    keys = [latency.History(r, Cutter(nn.Identity(), None, {}), 50.0)._key for r in (first, resumed)]  # type: ignore[arg-type]
    assert keys[0] == keys[1]
    path = tmp_path / "prune" / "renewed.json"
    path.write_text(path.read_text().replace("40.0", "4.0"))
    changed = job()
    profile.take_renewed(changed)  # type: ignore[arg-type]
    assert changed.facts["profile"]["dense_ms"] == 60


def disturbed_loop(monkeypatch, tmp_path, steady, profiled=200.0):
    """A loop that meets an engine which contradicts a profile of another pace: the dense engine took 200 ms then and takes 100 now."""
    again, console = [], Console(record=True, file=io.StringIO(), width=300)
    monkeypatch.setattr(latency, "again", lambda run: again.append(run) or run.facts["profile"].update(dense_ms=DENSE))

    def meet(run, cutter, allocate, scout=None):
        if run.facts["profile"]["dense_ms"] != DENSE:
            raise NotBelieved("the dense engine takes 100 ms, 200 when it was profiled", None, steady)  # type: ignore[arg-type]
        return {"a": 50}, {}

    monkeypatch.setattr(latency, "_meet", meet)
    run = SimpleNamespace(
        console=console, kept={"timed dense": 1}, facts={"profile": {"dense_ms": profiled}}, folder=tmp_path, key="k"
    )
    return lambda: latency.meet(run, None, None), again, run, console  # type: ignore[arg-type]


def test_a_profile_that_is_contradicted_is_taken_again_once(monkeypatch, tmp_path):
    meet, again, run, console = disturbed_loop(monkeypatch, tmp_path, steady=True)
    assert meet() == ({"a": 50}, {}) and len(again) == 1 and "timed dense" not in run.kept
    assert "profiling again" in console.export_text()
    run.facts["profile"]["dense_ms"] = 200.0
    with pytest.raises(NotBelieved):
        meet()
    assert len(again) == 1, "not for ever"


def test_a_machine_that_is_never_quiet_ends_the_loop_with_the_reason(monkeypatch, tmp_path):
    meet, again, _, _ = disturbed_loop(monkeypatch, tmp_path, steady=False)
    with pytest.raises(NotBelieved, match="when it was profiled"):
        meet()
    assert not again
