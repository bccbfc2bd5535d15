"""Two variants of a recipe share a run's folder: the second one says what differs."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeprune.files import write_json
from edgeprune.recipe import Recipe, load_recipe
from edgeprune.stages.variant import another_variant


def held(folder: Path, recipe: Recipe, stages: dict[str, int]) -> Path:
    write_json(folder / "recipe.json", recipe.model_dump(mode="json"))
    write_json(folder / "manifest.json", {"schema": 1, "stages": stages})
    return folder


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["budget.macs=0.3x"], "(budget.macs 0.4x → 0.3x): stages that differ are done again"),
        (["budget.latency=0.5x"], "(budget.macs 0.4x → null, budget.latency null → 0.5x)"),
        (["data.size=[64, 128]"], "(data.size [128, 256] → [64, 128])"),
        (["train=null", "model.checkpoint=w.pt"], "model.checkpoint null → w.pt, train {"),
        (["prune.method=l1", "seed=1", "train.lr=0.1", "train.steps=1", "finetune.steps=1"], " and 1 more)"),
        (["data.args.train=4"], "data.args.train 320 → 4"),
    ],
)
def test_what_differs_is_named(tmp_path: Path, settings, said):
    folder = held(tmp_path / "quickstart@cpu", load_recipe("quickstart"), {"load": 1})
    told = another_variant(folder, load_recipe("quickstart", settings))
    assert told and told.startswith(f"{folder} holds another variant of quickstart (") and said in told
    assert told.endswith("--set name=… keeps both") and "\n" not in told


@pytest.mark.parametrize("settings", [[], ["title=other"], ["data.workers=3", "train.checkpoint_every=7", "threads=1"]])
def test_the_same_run_again_says_nothing(tmp_path: Path, settings):
    folder = held(tmp_path, load_recipe("quickstart"), {"load": 1})
    assert another_variant(folder, load_recipe("quickstart", settings)) is None


def test_where_nothing_is_lost_nothing_is_said(tmp_path: Path):
    other = load_recipe("quickstart", ["budget.macs=0.3x"])
    assert another_variant(tmp_path, other) is None
    folder = held(tmp_path, load_recipe("quickstart"), {})
    assert another_variant(folder, other) is None
    for text in ("{", "[]", "{}"):
        (folder / "manifest.json").write_text(text)
        assert another_variant(folder, other) is None
