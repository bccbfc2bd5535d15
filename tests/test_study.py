"""The study on CamVid: its rows are recipes, its opponents are cut as they say, its page comes from the raw results alone."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from edgeprune import models
from edgeprune.compatible import check_pair
from edgeprune.devices.pairs import Pairs
from edgeprune.errors import SurgeryError
from edgeprune.prune.groups import find_groups
from edgeprune.prune.plan import make_plan
from edgeprune.prune.surgery import shrink
from edgeprune.recipe import Recipe
from edgeprune.target import load_target

HERE = Path(__file__).parents[1] / "benchmarks" / "camvid"


@pytest.fixture(scope="module")
def study() -> Iterator[ModuleType]:
    sys.path.insert(0, str(HERE))
    yield importlib.import_module("study")
    sys.path.remove(str(HERE))


def test_every_row_is_a_recipe_that_fits_the_target(study, tmp_path):
    target = load_target("cpu")
    for scale in study.SCALES.values():
        for entry in study.ENTRIES:
            row = study.Row(next(iter(scale.networks)), "0.5x", entry, 1)
            recipe = Recipe.model_validate(study.recipe(scale, row, str(tmp_path), "dense.safetensors"))
            check_pair(recipe, target)
            assert recipe.train is None and recipe.seed == 1


def test_rows_differ_in_nothing_but_the_method(study):
    scale = study.SCALES["cpu"]
    made = [
        study.recipe(scale, study.Row("streetnet", "0.5x", m, 0), "data", "dense")
        for m in study.METHODS
        if m != "scratch"
    ]
    for part in ("model", "data", "train", "budget", "deploy"):
        assert all(m[part] == made[0][part] for m in made), part
    steps = [
        m["finetune"].pop("steps") + m["prune"].get("sparsity", {}).get("steps", 0)
        for m in made
        if m["name"].find("sparse") < 0
    ]
    assert len(set(steps)) == 1, "all are trained for as long"
    assert all(m["finetune"] | {"steps": 0} == made[0]["finetune"] | {"steps": 0} for m in made)


def test_rows_at_other_lengths_differ_in_their_fine_tuning_alone(study):
    scale = study.SCALES["cpu"]
    for name in study.AT_LENGTHS:
        base, _, length = name.rpartition("_")
        row, base = (study.recipe(scale, study.Row("streetnet", "0.4x", m, 0), "data", "dense") for m in (name, base))
        assert row["finetune"].pop("steps") == study.LENGTHS[length][0] * base["finetune"].pop("steps")
        assert {**row, "name": ""} == {**base, "name": ""}
    asked = {r.entry for r in study.rows(scale, ablations=True)}
    assert asked == set(study.ENTRIES), "every entry has rows"
    assert set(study.AT_LENGTHS).isdisjoint(r.entry for r in study.rows(scale)), "ablations are asked for"


def test_a_layer_that_rounds_to_nothing_keeps_a_step_unless_it_is_torch_prunings_own_rounding(study):
    opponents = importlib.import_module("opponents")
    torch.manual_seed(0)
    net, example = models.build("streetnet", {"width": 16, "blocks": 1}, None, 5).eval(), torch.randn(1, 3, 64, 64)
    graph, widths = find_groups(net, example), {}
    for rounding in ("kept", "released"):
        small = opponents._copied(net)
        pruner = opponents._pruner(small, graph, example, "group_norm", True, 0.95, 16, rounding)
        widths[rounding] = opponents.widths_of(opponents._prune(pruner, small, graph))
    narrow = [g.name for g in graph.groups if g.size == 32]
    assert narrow and {widths["kept"][n] for n in narrow} == {16}
    assert {widths["released"][n] for n in narrow} == {32}, "refused, and so left whole"
    assert opponents._leaving_some(30, 32, 8) == 24 and opponents._leaving_some(200, 256, 8) == 200
    assert opponents._leaving_some(250, 256, 8) == 224, "a tenth stays"
    assert opponents._leaving_some(8, 8, 16) == 0


@pytest.mark.parametrize("importance", ["group_norm", "taylor"])
def test_torch_prunings_cut_is_told_as_a_plan(study, importance):
    opponents = importlib.import_module("opponents")
    torch.manual_seed(0)
    net, example = models.build("streetnet", {"width": 16, "blocks": 1}, None, 5).eval(), torch.randn(1, 3, 64, 64)
    models.logits_of(net(example)).square().mean().backward()
    graph, small = find_groups(net, example), opponents._copied(net)
    keep = opponents._prune(opponents._pruner(small, graph, example, importance, True, 0.5, 8), small, graph)
    told = shrink(net, make_plan(net, graph, keep))
    told.load_state_dict(small.state_dict())  # shapes are the plan's
    assert 0 < sum(opponents.widths_of(keep).values()) < sum(graph.widths().values())
    weight, kept = net.stem[0][0].weight, keep["stem.0.0"]
    assert torch.equal(small.stem[0][0].weight, weight[kept])  # and so are the channels


def test_torch_pruning_leaves_what_does_not_ship_alone(study):
    opponents = importlib.import_module("opponents")
    torch.manual_seed(0)
    net = models.build("deeplabv3", {"depth": 18, "width": 16, "head": 32, "aux": True}, None, 5).eval()
    example = torch.randn(1, 3, 64, 64)
    graph, small = find_groups(net, example), opponents._copied(net)
    keep = opponents._prune(opponents._pruner(small, graph, example, "group_norm", True, 0.5, 8), small, graph)
    shrink(net, make_plan(net, graph, keep)).load_state_dict(small.state_dict())
    assert any(name.startswith("aux") for name in graph.unprunable)


def test_a_cut_that_tears_channels_apart_is_refused(study):
    """torch-pruning does not see that unpooling reads the pool's indices."""
    opponents = importlib.import_module("opponents")
    torch.manual_seed(0)
    widths = [[8, 8], [16, 16], *[[16, 16, 16]] * 3]
    net, example = models.build("segnet", {"widths": widths}, None, 11).eval(), torch.randn(1, 3, 64, 64)
    graph = find_groups(net, example)
    with pytest.raises(SurgeryError, match="were not cut together"):
        opponents._prune(opponents._pruner(net, graph, example, "group_norm", True, 0.5, 8), net, graph)


def _record(entry: str, seed: int, score: float) -> dict:
    table = {
        "method": "sirfp", "metric": "mIoU", "more_name": "boundary IoU", "score": score, "dense_score": 50.0,
        "worst_class": "pole", "worst_class_loss": 3.0, "more": 30.0, "params": 1e5, "macs": 1e8, "macs_share": 0.4, "ms": 5.0,
        "share": 0.49, "met": True, "used": 0.98, "gates_failed": [], "seconds": 60.0, "scoring": 10.0, "sharing": 20.0,
        "tuning": 30.0, "own_steps": 0, "judging_steps": 90, "tuning_steps": 100,
    }  # fmt: skip
    mask = {"shape": [2, 3], "classes": "0 3", "lengths": "2 4"}
    return {
        "schema": 1, "network": "streetnet", "budget": "0.5x", "entry": entry, "seed": seed, "title": entry, "table": table,
        "dense_weights": f"abc{seed}",
        "dense": {"params": 2e5, "macs": 2e8}, "masks": {"dense": [mask], "pruned": [mask]},
        "machine": {"cpu": "some", "cores": 2}, "engine": {"backend": "OpenVINO", "precision_found": "f32"},
    }  # fmt: skip


def test_the_page_is_counted_from_the_raw_results(study, tmp_path, monkeypatch):
    report = importlib.import_module("report")
    monkeypatch.setattr(report, "DOCS", tmp_path)
    monkeypatch.setattr(report, "_reading", list)  # words of today's results
    records = [_record("edgeprune", s, 48.0 + s) for s in (0, 1)] + [_record("tp_taylor", s, 46.0) for s in (0, 1)]
    records.append({**_record("ns", 0, 0.0), "failed": "why it failed"})
    records[-1].pop("table")
    page = report.page("cpu", {"cpu": records})
    assert "48.50 (48.00, 49.00)" in page and "+2.50 (+2.00, +3.00)" in page and "why it failed" in page
    assert "| torch-pruning Taylor | 46.00 (46.00, 46.00) | -4.00 | -2.50 (-2.00, -3.00) |" in page
    assert "## Fine-tuned" not in page and "Ablations" not in page
    assert "very same" not in page
    other = [r | ({"dense_weights": "new"} if r["entry"] == "edgeprune" and r["seed"] == 1 else {}) for r in records]
    page_of_three = report.page("cpu", {"cpu": other, "cpu-epyc-avx512": records[:1]})
    assert "3 dense networks of 2 seeds" in page_of_three and "+2.00, one seed" in page_of_three
    assert "| streetnet | 0.5x | AVX-512 | 48.00 | - |" in page_of_three, "places are not averaged"
    timed = [r | {"again": {"share": 0.471}} for r in records if "table" in r]
    assert "| 0.490x | 0.471x | 2 of 2 |" in report.page("cpu", {"cpu": timed}) and "| 0.490x |  | 2 of 2 |" in page
    more = [_record("tp_taylor_long", 1, 49.5), _record("edgeprune_long", 1, 49.0), _record("recovered", 0, 47.0)]
    page_with_more = report.page("cpu", {"cpu": records + more})
    longer = page_with_more[page_with_more.index("## Shorter and longer fine-tuning, streetnet at 0.5x") :]
    assert "| torch-pruning Taylor, fine-tuned 2.5 times as long | 49.50 | -0.50 | +0.50, one seed |" in longer, (
        "beside the default of the same length and seed"
    )
    ablated = longer[longer.index("## Ablations, streetnet at 0.5x") :]
    assert (
        "| default, losses after a recovery | 47.00 | -3.00 | -1.00, one seed |" in ablated
        and "times as long" not in ablated
    )
    assert "results/streetnet-cpu-0.5x-lengths.svg" in longer
    assert "1500" in (tmp_path / "results" / "streetnet-cpu-0.5x-lengths.svg").read_text()
    for name in ("streetnet.svg", "streetnet-masks.svg"):
        assert f"results/{name}" in page and (tmp_path / "results" / name).read_text().rstrip().endswith("</svg>")


def test_engines_are_timed_again_in_turns(study):
    again = importlib.import_module("again")
    told = again.summary([0.5, 0.52, 0.51, 0.5, 0.6])
    assert told["share"] == 0.51 and told["ci95"][0] <= 0.51 <= told["ci95"][1] <= 0.6

    class Device:
        def pairs(self, dense, small, image, count):
            asked.append(small)
            return Pairs(np.full(count, 4.0), np.full(count, small), [(12, True), (12, True)])

    asked: list[float] = []
    made = {Path("a"): (1.0, 1.0), Path("b"): (1.0, 2.0)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(again, "device_of", lambda target: Device())
        found = again.shares(None, made, None, rounds=3, pairs=2)
    assert found == {Path("a"): [0.25] * 3, Path("b"): [0.5] * 3}
    assert all(set(asked[i : i + 2]) == {1.0, 2.0} for i in (0, 2, 4)), "each once a round"


def test_a_record_keeps_which_row_it_is(study, monkeypatch):
    """A run's report has words of its own for what a row calls `budget`."""
    rows = importlib.import_module("rows")
    monkeypatch.setattr(rows.fair, "row", lambda report: {"score": 50.0})
    role = {"latency": {"p50": 1.0, "times_ms": [1.0]}}
    told = dict.fromkeys(("speedup", "budget", "gates", "scoring", "training_steps", "machine"), {"kind": "latency"})
    report = {
        **told, "edgeprune": "0", "engine": {}, "dense": role, "pruned": role, "widths": {"widths": []}, "contest": None,
        "stages": [],
    }  # fmt: skip
    row = study.Row("streetnet", "0.5x", "sirfp", 2)
    found = rows.record(study.SCALES["cpu"], row, report, 1.0)
    assert {k: found[k] for k in row._fields} == row._asdict() and found["spent"] == {"kind": "latency"}
    assert {"commit", "torch-pruning", "openvino"} <= set(found["program"])
