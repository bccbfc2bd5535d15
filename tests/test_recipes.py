"""Every shipped recipe and target is read, and what users write wrongly is said in one line."""

from pathlib import Path

import pytest

from edgeprune.compatible import check_pair
from edgeprune.errors import RecipeError
from edgeprune.recipe import Budget, load_recipe
from edgeprune.shipped import shipped
from edgeprune.target import load_target

RECIPES = sorted(p.stem for p in shipped("recipes").rglob("*.yaml"))
TARGETS = sorted(p.stem for p in shipped("deploy/targets").rglob("*.yaml"))


def test_all_are_here():
    assert RECIPES == ["deeplabv3_cap", "deeplabv3_sirfp", "quickstart", "segnet_cap", "segnet_sirfp"]
    assert TARGETS == ["cpu", "intel-gpu", "intel-npu", "jetson", "jetson-orin-nano", "jetson-orin-nx", "rtx"]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_fits_every_target(name, target):
    recipe, device = load_recipe(name), load_target(target)
    assert recipe.name == name and device.name == target
    check_pair(recipe, device)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_teaches_its_commands(name):
    text = (shipped("recipes") / f"{name}.yaml").read_text()
    assert text.startswith("#") and "make " in text.split("name:")[0]


def test_settings_reach_every_depth():
    r = load_recipe("quickstart", ["train.lr=1e-4", "deploy.gates.min_miou=5", "data.size=[64,128]", "train.ema=0.99"])
    assert (r.train.lr, r.deploy.gates.min_miou, r.data.size, r.train.ema) == (1e-4, 5, (64, 128), 0.99)


def test_a_set_budget_replaces_the_recipes():
    r = load_recipe("quickstart", ["budget.params=0.3x"])
    assert (r.budget.kind, r.budget.limit(200)) == ("params", pytest.approx(60))


def test_budget_in_its_own_unit():
    assert Budget(macs=5e9).limit(1e12) == 5e9
    assert Budget(macs="0.25x").limit(8) == 2


def test_scientific_notation_is_a_number(tmp_path: Path):
    text = (shipped("recipes") / "deeplabv3_cap.yaml").read_text().replace("0.0001 ", "1e-4 ")
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert load_recipe(str(path)).prune.args["strength"] == 1e-4


def test_fault_names_file_line_key_and_the_nearest(tmp_path: Path):
    text = (shipped("recipes") / "quickstart.yaml").read_text().replace("  method: sirfp", "  methd: sirfp")
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    line = next(i for i, t in enumerate(text.splitlines(), 1) if "methd" in t)
    with pytest.raises(RecipeError) as fault:
        load_recipe(str(path))
    assert str(fault.value).startswith(f"{path}:{line}: prune.methd: unknown key; did you mean method?")


def test_the_resolved_recipe_can_be_run_again(tmp_path: Path):
    import yaml

    recipe = load_recipe("segnet_cap", ["data.root=/x"])
    path = tmp_path / "again.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    assert load_recipe(str(path)) == recipe
