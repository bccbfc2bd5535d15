"""A comparison goes on past entries that fail, tells how far it is, and shows what it has when it is stopped."""

import io
import json
from pathlib import Path

import pytest

from edgeprune import compare as comparing
from edgeprune import pipeline, progress
from edgeprune.errors import EdgepruneError
from edgeprune.files import write_json
from edgeprune.recipe import load_recipe
from edgeprune.target import load_target


def report(method: str, miou: float) -> dict:
    each = {"iou_per_class": {"road": miou, "pole": miou / 2}}
    return {
        "method": method,
        "metric": {"name": "mIoU", "key": "miou", "per_class": "iou_per_class", "more": ["boundary_iou", "boundary IoU"]},
        "engine": {**each, "miou": miou, "boundary_iou": 0.4, "latency": {"p50": 2.0}, "dense_latency": {"p50": 4.0}},
        "dense": {"iou_per_class": {"road": 0.9, "pole": 0.5}, "macs": 2e9},
        "pruned": {"params": 1e6, "macs": 1e9}, "attribution": [{"miou": 0.7}], "speedup": {"median": 2.0},
        "budget": {"met": True, "achieved": 0.98, "limit": 1.0, "engines_built": 2}, "gates": [],
        "scoring": {"scoring_seconds": 10.0}, "training_steps": {"prune": 0, "judging": 0, "finetune": 9},
        "stages": [{"name": "prune", "seconds": 60.0}, {"name": "finetune", "seconds": 60.0}],
    }  # fmt: skip


@pytest.fixture
def compared(tmp_path: Path, monkeypatch):
    """Compare three methods over two seeds with runs that are made up: (what happens in a run) -> status, output, JSON."""

    def go(happens):
        def one(recipe, target, runs_dir, console):
            happens(recipe)
            write_json(runs_dir / f"{recipe.name}@{target.name}" / "report.json", report(recipe.prune.method, 0.6))
            return 0

        monkeypatch.setattr(pipeline, "run", one)
        monkeypatch.setattr(pipeline, "dense", lambda r, t, d, c: happens(r) or Path("w.safetensors"))
        told, target = io.StringIO(), load_target("cpu")
        wanted = comparing.entries([load_recipe("quickstart", [])], ["l1", "l2", "random"], target)
        console = progress.console(file=told)
        try:
            status = comparing.compare(wanted, target, tmp_path, seeds=[0, 1], out=tmp_path / "t-0.5x", console=console)
        except KeyboardInterrupt:
            status = 130
        return status, told.getvalue(), json.loads((tmp_path / "t-0.5x.json").read_text())

    return go


def test_an_entry_that_fails_does_not_take_the_others_along(compared):
    def happens(recipe):
        if recipe.name == "quickstart-l1-seed0":
            raise EdgepruneError("budget: [b]cannot[/b] be reached")
        if recipe.name == "quickstart-l2-seed0":
            raise ZeroDivisionError("division by zero")

    status, told, found = compared(happens)
    assert status == 3 and {r["entry"] for r in found["rows"]} == {f"quickstart-{m}" for m in ("l1", "l2", "random")}
    assert found["failed"]["quickstart-l1-seed0"] == "budget: [b]cannot[/b] be reached"
    assert "unexpected ZeroDivisionError: division by zero" in found["failed"]["quickstart-l2-seed0"]
    assert "[b]cannot[/b]" in told and "fewer seeds than the others have: quickstart-l1, quickstart-l2" in told
    assert "run 1 of 6: quickstart-l1-seed0" in told and "run 6 of 6: quickstart-random-seed1, about 2 min left" in told


def test_a_dense_network_that_cannot_be_had_is_tried_once_a_seed(compared):
    tried = []

    def happens(recipe):
        if "-dense-" in recipe.name and recipe.seed == 0:
            tried.append(recipe.name)
            raise EdgepruneError("the loss is nan")

    status, _, found = compared(happens)
    assert status == 3 and len(tried) == 1 and len(found["failed"]) == 3 and len(found["runs"]) == 3
    assert all(why == "its dense network cannot be had: the loss is nan" for why in found["failed"].values())


def test_a_comparison_that_is_stopped_shows_what_it_has(compared):
    def happens(recipe):
        if recipe.name == "quickstart-random-seed0":
            raise KeyboardInterrupt

    status, told, found = compared(happens)
    assert status == 130 and len(found["runs"]) == 2 and "numbers:" in told and "quickstart-l2 " in told


def test_only_a_run_is_launched_by_several_processes(cli, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for command in (("compare", "quickstart"), ("search", "quickstart")):
        code, _, err = cli(*command)
        assert code == 2
        assert "its runs are one process each" in err and "Traceback" not in err
