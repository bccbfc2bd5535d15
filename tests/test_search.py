"""What a search makes of a recipe for methods other than its own."""

import json
import platform
from types import SimpleNamespace

import optuna
import pytest
import torch
from rich.console import Console

from edgeprune import search as searching
from edgeprune.errors import EdgepruneError, RecipeError
from edgeprune.recipe import load_recipe
from edgeprune.search import points
from edgeprune.target import load_target


def test_methods_that_must_train_get_the_recipes_training_and_others_none():
    settings = [
        "prune.method=cap", "prune.args={strength: 0.01}", "prune.sparsity={steps: 3}",
        "prune.rounds=[{keep: 0.7x, args: {strength: 0.1}, sparsity: {steps: 2}}]",
    ]  # fmt: skip
    found = points(load_recipe("quickstart", settings), load_target("cpu"), ["macs=0.5x"], ["cap", "ns", "l1", "sirfp"])
    cap, ns, l1, sirfp = (made.prune for made in found.values())
    assert cap.args == {"strength": 0.01} and cap.rounds[0].args == {"strength": 0.1}
    assert ns.sparsity == cap.sparsity and ns.args == {} and ns.rounds[0].args is None
    assert l1.sparsity is None and l1.rounds[0].sparsity is None and l1.rounds[0].keep == "0.7x"
    assert sirfp.sparsity is None  # it can do without


def test_a_method_that_trains_without_a_schedule_is_refused_before_anything_begins():
    with pytest.raises(RecipeError, match="prune.sparsity is missing: acosp"):
        points(load_recipe("quickstart"), load_target("cpu"), ["macs=0.5x"], ["l1", "acosp"])


ROW = {
    "metric": "mIoU",
    "score": 0.5,
    "ms": 2.0,
    "share": 0.5,
    "macs_share": 0.5,
    "met": True,
    "status": 0,
    "method": "l1",
    "budget": "0.5x",
}


@pytest.fixture
def study(monkeypatch):
    monkeypatch.setattr(searching.front, "mark", lambda rows: [r | {"front": True} for r in rows])
    monkeypatch.setattr(searching.front, "page", lambda *_: "")
    return optuna.create_study(directions=["maximize", "minimize"], study_name="quickstart@cpu")


def keyed(wanted):
    return {name: made.model_dump_json() for name, made in wanted.items()}


def put(study, wanted, point, **attributes):
    """A point as a process takes it."""
    study.enqueue_trial({}, user_attrs={"point": point, "key": keyed(wanted)[point], **attributes})
    return searching._next(study, wanted)


def test_rows_of_an_earlier_recipe_and_failures_that_were_mended_are_not_told(study, tmp_path):
    old = points(load_recipe("quickstart", ["finetune.steps=5"]), load_target("cpu"), ["macs=0.5x"], ["l1"])
    new = points(load_recipe("quickstart"), load_target("cpu"), ["macs=0.5x"], ["l1", "random"])
    (point, other) = new
    searching._tell(study, put(study, old, point), "row", ROW | {"score": 0.9}, [0.9, 2.0])
    searching._tell(study, put(study, new, point), "error", "the disk was full", None)
    searching._tell(study, put(study, new, point), "row", ROW, [0.5, 2.0])
    searching._tell(study, put(study, new, other), "error", "the disk was full again", None)
    assert searching._report(study, keyed(new), tmp_path, Console(quiet=True)) == 3, "one failed"
    found = json.loads((tmp_path / "search.json").read_text())
    assert [(r["point"], r["score"]) for r in found["rows"]] == [(point, 0.5)]
    assert found["failed"] == {other: "the disk was full again"}


@pytest.mark.parametrize(("status", "met", "ends"), [(0, True, 0), (3, True, 3), (4, None, 4), (0, False, 3)])
def test_it_ends_as_its_points_did(study, tmp_path, status, met, ends):
    wanted = points(load_recipe("quickstart"), load_target("cpu"), ["macs=0.5x"], ["l1"])
    searching._tell(study, put(study, wanted, *wanted), "row", ROW | {"status": status, "met": met}, [0.5, 2.0])
    assert searching._report(study, keyed(wanted), tmp_path, Console(quiet=True)) == ends


def test_what_another_machine_is_at_is_left_to_it(study, monkeypatch, tmp_path):
    wanted = points(load_recipe("quickstart"), load_target("cpu"), ["macs=0.5x"], ["l1", "random"])
    here, there = wanted
    put(study, wanted, here)
    trial = put(study, wanted, there)
    trial.set_user_attr("machine", platform.node() + "-other")
    searching._enqueue(study, keyed(wanted), tmp_path, load_target("cpu"), Console(quiet=True))
    states = [(t.user_attrs["point"], t.state.name) for t in study.get_trials(deepcopy=False)]
    assert states == [(here, "FAIL"), (there, "RUNNING"), (here, "WAITING")], "ours was left by a process that is gone"
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
    searching._tell(study, trial, "row", ROW, [0.5, 2.0])  # given up by somebody meanwhile: no error


def test_points_that_no_device_has_measured_or_that_have_changed_are_run_again(study, tmp_path):
    wanted = points(load_recipe("quickstart"), load_target("cpu"), ["macs=0.5x"], ["l1", "random", "l2"])
    measured, estimated, changed = wanted
    for name, status in ((measured, 3), (estimated, 4), (changed, 0)):
        searching._tell(study, put(study, wanted, name), "row", ROW | {"status": status}, [0.5, 2.0])
    keys = keyed(wanted) | {changed: "another target, other data or code"}
    searching._enqueue(study, keys, tmp_path, load_target("cpu"), Console(quiet=True))
    waiting = [t.user_attrs["point"] for t in study.get_trials(deepcopy=False) if t.state.name == "WAITING"]
    assert waiting == [estimated, changed]


def test_a_point_that_ends_in_a_surprise_does_not_take_the_others_along(study, monkeypatch, tmp_path):
    wanted = points(load_recipe("quickstart"), load_target("cpu"), ["macs=0.5x"], ["l1"])
    monkeypatch.setattr(searching.pipeline, "run", lambda *_: torch.zeros(2) @ torch.zeros(3))
    (made,) = wanted.values()
    searching._run(study, put(study, wanted, made.name), made, load_target("cpu"), tmp_path, Console(quiet=True))
    assert searching._report(study, keyed(wanted), tmp_path, Console(quiet=True)) == 3
    assert "unexpected RuntimeError" in json.loads((tmp_path / "search.json").read_text())["failed"][made.name]


def test_a_row_that_was_changed_is_run_again(study, tmp_path):
    wanted = points(load_recipe("quickstart"), load_target("cpu"), ["macs=0.5x"], ["l1"])
    trial = put(study, wanted, *wanted)
    searching._tell(study, trial, "row", ROW, [0.5, 2.0])
    (kept,) = study.get_trials(deepcopy=False)
    assert searching._row(kept) == ROW
    for odd in (kept.user_attrs["row"] | {"score": 0.99}, ROW, [], None, "row"):
        assert searching._row(SimpleNamespace(state=kept.state, user_attrs={"row": odd})) is None


@pytest.mark.parametrize("content", ["{", "[]\n", '{"op_code": 99}\n', "\x00\xff\n"])
def test_a_journal_that_is_none_is_one_line(tmp_path, content):
    path = tmp_path / "journal.log"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(EdgepruneError, match="cannot be opened") as told:
        searching._study(str(path), tmp_path, "quickstart@cpu")
    assert "\n" not in str(told.value)
