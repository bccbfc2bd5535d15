"""The table of a comparison: means, spread, what a missing measurement does to it, and what it tells of unequal entries."""

import pytest

from edgeprune.compare import entries, unlike, with_equal_steps
from edgeprune.deploy import fair
from edgeprune.errors import RecipeError
from edgeprune.recipe import load_recipe
from edgeprune.target import load_target


def run(entry, miou, ms=2.0, met=True, loss=3.0, name="pole", used=0.98, gates=()):
    return {
        "entry": entry, "method": "l1", "metric": "mIoU", "more_name": "boundary IoU", "score": miou, "dense_score": 70.0, "worst_class": name, "worst_class_loss": loss,
        "more": 50.0, "params": 1e6, "macs": 1e9, "macs_share": 0.5, "ms": ms, "share": None if ms is None else ms / 4,
        "met": met, "used": used, "engines_built": 2, "gates_failed": list(gates), "seconds": 600.0, "scoring": 60.0, "sharing": 120.0, "tuning": 420.0,
        "own_steps": 150, "judging_steps": 90, "tuning_steps": 450,
    }  # fmt: skip


def cell(row, heading):
    return fair.cells(row)[fair.headings([row]).index(heading)]


def test_means_spread_and_order():
    rows = fair.summary([run("a", 60), run("a", 64, met=False, loss=9, name="rider"), run("b", 65)])
    assert [r["entry"] for r in rows] == ["b", "a"]
    a = rows[1]
    assert a["score"] == 62 and a["spread"] == pytest.approx(8**0.5) and a["worst_class"] == "rider" and a["met"] == 1
    assert rows[0]["spread"] is None and cell(rows[0], "± sd") == "-"
    assert cell(a, "to dense") == "-8.00" and cell(a, "met") == "1 of 2" and cell(a, "worst class") == "rider -9.0"
    assert cell(a, "minutes") == "10.0" and cell(a, "of them ¹") == "1.0 + 2.0 + 7.0"
    assert cell(a, "steps ²") == "150 + 90 + 450" and cell(a, "budget used") == "98.0%"
    assert "c failed: no" in fair.markdown(rows, {"c": "no"})


def test_an_entry_that_was_not_always_measured_has_no_milliseconds():
    rows = fair.summary([run("a", 60), run("a", 61, ms=None)])
    assert rows[0]["ms"] is None and rows[0]["share"] is None


def test_the_table_tells_what_does_not_compare():
    equal = fair.summary([run("a", 60), run("b", 61)])
    assert len(fair.notes(equal)) == 2, "only what the columns mean"
    more = fair.summary([run("a", 60), {**run("b", 61), "own_steps": 0}])
    assert "between 450 and 600 steps behind the dense network" in fair.markdown(more, {})
    rows = fair.summary([run("a", 60), run("a", 61), run("b", 61, met=None, used=0.9, gates=["pixel_agreement"])])
    told = fair.markdown(rows, {}, ["finetune", "prune.allocate"])
    for part in (
        "fewer seeds than the others have: b", "b: gates failed: pixel_agreement", "not always met, or not measured: b",
        "between 90.0% and 98.0% of the budget", "**the recipes differ in finetune, prune.allocate",
    ):  # fmt: skip
        assert part in told


def test_time_is_split_and_trainings_between_cuts_are_tuning():
    stages = [{"name": n, "seconds": s} for n, s in (("load", 9.0), ("prune", 50.0), ("finetune", 20.0))]
    report = {"stages": stages, "scoring": {"scoring_seconds": 30.0, "between_seconds": 5.0}}
    assert fair._spent(report) == {"seconds": 70.0, "scoring": 30.0, "sharing": 15.0, "tuning": 25.0}


def test_what_a_comparison_must_have_in_common_is_told():
    a, b = load_recipe("quickstart", []), load_recipe("quickstart", ["finetune.steps=10", "prune.method=l1"])
    assert unlike([a, b]) == ["finetune"] and unlike([a, a]) == []
    assert unlike([a, load_recipe("quickstart", ["prune.allocate=uniform", "prune.args={detail: 0.4}"])]) == [
        "prune.allocate"
    ]


def test_equal_steps_lengthen_the_fine_tuning_of_those_that_train_less():
    rounds = "prune.rounds=[{keep: 0.7x, finetune: {steps: 7}}]"
    recipe = load_recipe("quickstart", ["prune.method=ns", "prune.sparsity.steps=30", "finetune.steps=50", rounds])
    made = with_equal_steps(entries([recipe], ["ns", "l1"], load_target("cpu")))
    assert {n: r.finetune.steps for n, r in made.items()} == {"quickstart-ns": 50, "quickstart-l1": 110}
    in_epochs = load_recipe("quickstart", ["finetune.steps=null", "finetune.epochs=2"])
    with pytest.raises(RecipeError, match="quickstart has a schedule in epochs"):
        with_equal_steps({"a": in_epochs})


def test_recipes_of_one_name_are_not_taken_for_each_other():
    recipes = [load_recipe("quickstart", []), load_recipe("quickstart", ["finetune.steps=10"])]
    with pytest.raises(RecipeError, match="two of the recipes are called quickstart"):
        entries(recipes, [], load_target("cpu"))
    assert list(entries(recipes[:1], ["l1", "l1"], load_target("cpu"))) == ["quickstart-l1"]


def test_tasks_have_no_common_measure():
    recipes = [load_recipe(name, []) for name in ("quickstart", "quickstart_classification")]
    with pytest.raises(RecipeError, match="classification and segmentation have no common measure"):
        entries(recipes, [], load_target("cpu"))
    rows = fair.summary([run("a", 60)])
    assert fair.headings(rows)[1] == "engine's mIoU" and "| engine's mIoU |" in fair.markdown(rows, {})


def test_the_worst_class_is_the_engines():
    assert fair.worst_class({"road": 0.9, "pole": 0.5, "rare": None}, {"road": 0.85, "pole": 0.2, "rare": 0.1}) == (
        "pole",
        pytest.approx(30.0),
    )
