"""Which precision ships, on engines of our own making: so long they take, so often they agree, at that they really run."""

from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from edgeprune.errors import EngineError
from edgeprune.files import read_json
from edgeprune.recipe import Budget, Deploy
from edgeprune.stages import precision
from edgeprune.tasks.segmentation import Segmentation

SIZE, CLASSES = (24, 32), ["a", "b", "c"]


class Images:
    """Images that hold their own labels in the first channel."""

    classes = CLASSES

    def __init__(self):
        random = np.random.default_rng(0)
        self.masks = [np.kron(random.integers(0, 3, (3, 4)), np.ones((8, 8), int)).astype(np.uint8) for _ in range(3)]

    def __len__(self):
        return len(self.masks)

    def __getitem__(self, i):
        return np.repeat(self.masks[i][..., None], 3, 2), self.masks[i]


def engine(name, found, ms, wrong=0.0):
    """An engine that gives another class on a share of the rows."""

    def predict(images):
        masks = images[..., 0].copy()
        rows = int(round(wrong * masks.shape[1]))
        masks[:, :rows] = (masks[:, :rows] + 1) % 3
        return masks

    return SimpleNamespace(name=name, precision=found, ms=ms, predict=predict)


def choose(monkeypatch, tmp_path, engines, budget=None, missing=None, deploy=None):
    """Run the stage where an engine of a precision is as `engines` has it; an exception there is raised by its build."""
    made: list[tuple[str, str]] = []

    def build(run, role, asked):
        made.append((role, asked))
        held = engines[asked] if role == "pruned" else engines[f"dense {asked}"]
        if isinstance(held, Exception):
            raise held
        return held

    def pairs(a, b, image, runs):
        wave = 1 + 0.001 * np.cos(np.arange(runs))
        return a.ms * wave, b.ms * wave[::-1], [(12, True), (12, True)], 0

    task = Segmentation(CLASSES, SIZE, None)
    told = SimpleNamespace(why_not=lambda: missing, pairs=pairs)
    monkeypatch.setattr(precision, "_engine", build)
    monkeypatch.setattr(precision, "device", lambda run: told)
    monkeypatch.setattr(precision, "types_beside", lambda run: made.append(("types", precision.precision(run))))
    monkeypatch.setattr(precision.load, "task", lambda run: task)
    monkeypatch.setattr(precision.load, "dataset", lambda run, split: Images())
    monkeypatch.setattr(precision, "network", lambda run, role: SimpleNamespace(to=lambda device: "PyTorch"))
    monkeypatch.setattr(task, "predictor", lambda net: lambda images: images[..., 0])
    recipe = SimpleNamespace(
        deploy=Deploy(precision="fastest", **(deploy or {})), budget=Budget(**(budget or {"macs": "0.5x"}))
    )
    recipe.model_copy = lambda update: SimpleNamespace(**{**vars(recipe), **update})
    run = precision.Run(
        recipe,  # type: ignore[arg-type]
        SimpleNamespace(precision="f32", precisions=[p for p in engines if " " not in p], host=None),  # type: ignore[arg-type]
        tmp_path, Console(quiet=True),
    )  # fmt: skip
    facts = precision.choose(run)
    return facts, {row["asked"]: row for row in facts["candidates"]}, made


def test_the_fastest_that_passes_ships(monkeypatch, tmp_path):
    facts, rows, made = choose(
        monkeypatch, tmp_path, {"f32": engine("a", "f32", 4.0), "bf16": engine("b", "bf16", 3.0), "int8": engine("c", "int8", 2.0)}
    )  # fmt: skip
    assert facts["chosen"] == "int8" and facts["reference"] == "f32" and rows["int8"]["chosen"]
    assert rows["int8"]["share"] == pytest.approx(0.5, rel=0.01) and rows["bf16"]["passed"]
    assert rows["bf16"]["verdict"].startswith("passes, faster than f32: 0.75")
    assert made == [("pruned", "f32"), ("pruned", "bf16"), ("pruned", "int8"), ("types", "int8")]
    assert read_json(tmp_path / "precision" / "candidates.json")["chosen"] == "int8"


def test_a_fast_one_that_fails_a_gate_does_not_ship(monkeypatch, tmp_path):
    facts, rows, _ = choose(
        monkeypatch, tmp_path, {"f32": engine("a", "f32", 4.0), "int8": engine("c", "int8", 2.0, wrong=0.25)}
    )
    assert facts["chosen"] == "f32" and not rows["int8"]["passed"]
    assert (
        "pixel_agreement (0.75, limit 0.98)" in rows["int8"]["verdict"] and "faster than f32" in rows["int8"]["verdict"]
    )


def test_a_slow_one_is_said_to_be_slow(monkeypatch, tmp_path):
    facts, rows, made = choose(
        monkeypatch, tmp_path, {"f32": engine("a", "f32", 2.0), "int8": engine("c", "int8", 3.0)}
    )
    assert facts["chosen"] == "f32" and rows["int8"]["verdict"].startswith("passes, slower than f32: 1.50")
    assert made[-1][0] == "pruned", "the target's own has its types beside the graph already"


def test_in_doubt_the_targets_own_stays(monkeypatch, tmp_path):
    facts, _, _ = choose(
        monkeypatch, tmp_path, {"f32": engine("a", "f32", 2.0), "bf16": engine("b", "bf16", 2.0 * (1 - 1e-6))}
    )
    assert facts["chosen"] == "f32"


def test_what_runs_as_another_one_is_not_judged_twice(monkeypatch, tmp_path):
    refused = EngineError("no calibration images")
    facts, rows, _ = choose(
        monkeypatch, tmp_path, {"f32": engine("a", "f32", 2.0), "f16": engine("b", "f32", 1.0), "int8": refused}
    )
    assert facts["chosen"] == "f32" and rows["f16"]["verdict"] == "runs at f32 here, as f32 does"
    assert rows["int8"]["verdict"] == "not built: no calibration images" and rows["int8"]["ms"] is None


def test_where_none_passes_the_targets_own_stays_and_that_is_said(monkeypatch, tmp_path):
    facts, rows, _ = choose(
        monkeypatch, tmp_path, {"f32": engine("a", "f32", 2.0, wrong=0.5), "int8": engine("c", "int8", 1.0, wrong=0.5)}
    )
    assert facts["chosen"] == "f32" and "no precision passes" in rows["f32"]["verdict"]


def test_where_nothing_can_be_built_the_first_error_is_told(monkeypatch, tmp_path):
    with pytest.raises(EngineError, match="of f32"):
        choose(monkeypatch, tmp_path, {"f32": EngineError("of f32"), "int8": EngineError("of int8")})


def test_a_budget_in_milliseconds_holds_for_what_ships(monkeypatch, tmp_path):
    """f32 agrees too little; int8 passes all but the budget; bf16 is within it."""
    engines = {
        "f32": engine("a", "f32", 3.0, wrong=0.5), "int8": engine("c", "int8", 5.0), "bf16": engine("b", "bf16", 3.5),
    }  # fmt: skip
    facts, rows, _ = choose(monkeypatch, tmp_path, engines, budget={"latency_ms": 4.0})
    assert facts["chosen"] == "bf16" and "latency (5" in rows["int8"]["verdict"]


def test_the_speed_up_is_judged_at_each_precision(monkeypatch, tmp_path):
    engines = {
        "f32": engine("a", "f32", 2.0), "dense f32": engine("d", "f32", 4.0),
        "int8": engine("c", "int8", 1.0), "dense int8": engine("e", "int8", 1.1),
    }  # fmt: skip
    facts, rows, _ = choose(monkeypatch, tmp_path, engines, deploy={"gates": {"min_speedup": 1.5}})
    assert facts["chosen"] == "f32" and "fails min_speedup (1." in rows["int8"]["verdict"]


def test_a_device_that_is_elsewhere_gets_the_targets_own(monkeypatch, tmp_path):
    facts, rows, made = choose(monkeypatch, tmp_path, {"f32": engine("a", "f32", 2.0)}, missing="no GPU here")
    assert facts["chosen"] == "f32" and facts["why_not"] == "no GPU here" and not rows and not made
