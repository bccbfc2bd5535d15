"""The table of a comparison: means, spread, and what a missing measurement does to it."""

import pytest

from edgeprune.compare import entries, unlike
from edgeprune.deploy import fair
from edgeprune.errors import RecipeError
from edgeprune.recipe import load_recipe
from edgeprune.target import load_target


def run(entry, miou, ms=2.0, met=True, loss=3.0, name="pole"):
    return {
        "entry": entry, "method": "l1", "metric": "mIoU", "more_name": "boundary IoU", "score": miou, "dense_score": 70.0, "worst_class": name, "worst_class_loss": loss,
        "more": 50.0, "params": 1e6, "macs": 1e9, "macs_share": 0.5, "ms": ms, "share": None if ms is None else ms / 4,
        "met": met, "seconds": 60.0,
    }  # fmt: skip


def test_means_spread_and_order():
    rows = fair.summary([run("a", 60), run("a", 64, met=False, loss=9, name="rider"), run("b", 65)])
    assert [r["entry"] for r in rows] == ["b", "a"]
    a = rows[1]
    assert a["score"] == 62 and a["spread"] == pytest.approx(8**0.5) and a["worst_class"] == "rider" and a["met"] == 1
    assert rows[0]["spread"] is None and fair.cells(rows[0])[2] == "-"
    assert fair.cells(a)[3] == "-8.00" and fair.cells(a)[-1] == "1 of 2"
    assert fair.markdown(rows, {"c": "no"}).count("\n") == 6


def test_an_entry_that_was_not_always_measured_has_no_milliseconds():
    rows = fair.summary([run("a", 60), run("a", 61, ms=None)])
    assert rows[0]["ms"] is None and rows[0]["share"] is None


def test_what_a_comparison_must_have_in_common_is_told():
    a, b = load_recipe("quickstart", []), load_recipe("quickstart", ["finetune.steps=10", "prune.method=l1"])
    assert unlike([a, b]) == ["finetune"] and unlike([a, a]) == []


def test_tasks_have_no_common_measure():
    recipes = [load_recipe(name, []) for name in ("quickstart", "quickstart_classification")]
    with pytest.raises(RecipeError, match="classification and segmentation have no common measure"):
        entries(recipes, [], load_target("cpu"))
    rows = fair.summary([run("a", 60)])
    assert fair.headings(rows)[1] == "engine's mIoU" and "| engine's mIoU |" in fair.markdown(rows, {})
