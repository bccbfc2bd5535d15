"""Every shipped recipe and target is read, and what users write wrongly is said in one line."""

import fnmatch
import functools
import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from edgeprune import models
from edgeprune.cli import app
from edgeprune.compatible import check_pair
from edgeprune.errors import RecipeError
from edgeprune.recipe import Budget, load_recipe
from edgeprune.shipped import shipped
from edgeprune.target import load_target

RECIPES = sorted(p.stem for p in shipped("recipes").rglob("*.yaml"))
TARGETS = sorted(p.stem for p in shipped("deploy/targets").rglob("*.yaml"))


QUICK = {"quickstart", "quickstart_classification", "quickstart_detection"}
DEFAULT = {"streetnet_group_norm_camvid", "deeplabv3_group_norm"}  # this program's own, under milliseconds
OWN = {*QUICK, *DEFAULT, "deeplabv3_cap", "segnet_sirfp"}  # pairs that no paper reports
CLAIMED = {"resnet18_sirfp_cifar10", "resnet50_sirfp_cifar10", "ssd_sirfp_voc_detection"}  # without a figure at hand
OWN |= CLAIMED
SIRFP = {
    "deeplabv3_sirfp", "deeplabv3plus_sirfp", "deeplabv3_sirfp_ade20k", "deeplabv3_sirfp_cocostuff10k",
    "deeplabv3_dcfp", "deeplabv3_fpgm",
}  # fmt: skip
CAP = {
    *(f"{n}_{m}" for n in ("pspnet101", "pspnet50", "icnet") for m in ("cap", "fpgm", "fpgm_a", "ns", "bn_scale")),
    *(f"segnet_{m}_cityscapes" for m in ("cap", "fpgm", "fpgm_a", "ns", "bn_scale")),
    *(f"segnet_{m}" for m in ("cap", "fpgm", "ns", "bn_scale")),
}
MTP = {"deeplabv3_mtp", "deeplabv3_mtp_voc2012", "bisenetv2_mtp"}
ACOSP = {
    "pspnet50_acosp", "pspnet50_acosp_voc2012", "pspnet50_acosp_ade20k", "segnet_acosp", "segnet_acosp_cityscapes",
    "resnet18_acosp_cifar10",
}  # fmt: skip

recipe_of, target_of = functools.cache(load_recipe), functools.cache(load_target)


def header(name: str) -> str:
    return (shipped("recipes") / f"{name}.yaml").read_text().split("\nname:")[0]


def commands(name: str) -> list[tuple[str, list[str]]]:
    """(target, settings) of the header's `make` lines."""
    found = re.findall(r'^# +make recipe=(\S+) target=(\S+)(?: set="([^"]*)")?', header(name), re.MULTILINE)
    assert {recipe for recipe, _, _ in found} == {name}
    return [(target, settings.split()) for _, target, settings in found]


def test_every_pair_of_the_papers_is_here():
    assert set(RECIPES) == OWN | SIRFP | CAP | MTP | ACOSP
    rtx = {"rtx", "rtx3060", "rtx4090", "rtx5090"}
    assert (
        set(TARGETS)
        == {
            "cpu",
            "cpu-inductor",
            "cuda-inductor",
            "intel-gpu",
            "intel-npu",
            "jetson",
            "jetson-orin-nano",
            "jetson-orin-nx",
            "tensorrt",
        }
        | rtx
    )


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_fits_every_target(name, target):
    recipe, device = recipe_of(name), target_of(target)
    assert recipe.name == name and device.name == target
    figures = device.catalogue is not None and device.catalogue.bandwidth_gb_s
    if (
        name in DEFAULT and target != "cpu" and not figures
    ):  # milliseconds of a device that is not here, and of which nothing is known
        try:
            check_pair(recipe, device)  # it may be here after all
        except RecipeError as error:
            assert str(error).startswith("budget.latency: ") and "use budget.macs" in str(error)
        recipe = load_recipe(name, ["budget.macs=0.5x"])
    check_pair(recipe, device)


@pytest.mark.parametrize("name", RECIPES)
def test_the_commands_that_a_recipe_teaches_are_right(name):
    assert commands(name)
    for target, settings in commands(name):
        check_pair(load_recipe(name, settings), target_of(target))


@pytest.mark.parametrize("name", sorted(set(RECIPES) - QUICK))
def test_a_name_says_network_method_and_data(name):
    recipe = recipe_of(name)
    depth = recipe.model.args["depth"] if recipe.model.network in ("pspnet", "resnet") else ""
    usual = "camvid" if recipe.model.network == "segnet" else "cityscapes"
    data = "" if recipe.data.name == usual else f"_{recipe.data.name}"
    assert name == f"{recipe.model.network}{depth}_{recipe.prune.method}{data}"


@pytest.mark.parametrize("name", sorted(set(RECIPES) - QUICK))
def test_layers_that_a_recipe_names_are_there(name):
    recipe = recipe_of(name)
    globs = [*recipe.prune.never, recipe.prune.args.get("backbone", "*")]
    layers = layers_of(recipe.model.network, json.dumps(recipe.model.args))
    assert all(any(fnmatch.fnmatch(layer, glob) for layer in layers) for glob in globs)


@functools.cache
def layers_of(network: str, args: str) -> list[str]:
    with torch.device("meta"):
        return [name for name, _ in models.build(network, json.loads(args), None, 19).named_modules()]


@pytest.mark.parametrize("name", sorted(set(RECIPES) - OWN))
def test_published_numbers_are_called_not_reproduced(name):
    line = next(t for t in METHODS.splitlines() if t.startswith(f"| `{name}` |"))
    assert "not reproduced here" in " ".join(header(name).replace("\n#", " ").split())
    assert line.endswith("| no |")


METHODS = (Path(__file__).parents[1] / "docs" / "methods.md").read_text()


def test_the_list_of_recipes_fits_a_terminal():
    shown = CliRunner().invoke(app, ["recipes"], env={"COLUMNS": "80"}).output.splitlines()
    assert max(map(len, shown)) <= 80
    assert [t.split()[0] for t in shown if t.strip()][1:] == RECIPES


def test_settings_reach_every_depth():
    r = load_recipe("quickstart", ["train.lr=1e-4", "deploy.gates.min_miou=5", "data.size=[64,128]", "train.ema=0.99"])
    assert (r.train.lr, r.deploy.gates.min_miou, r.data.size, r.train.ema) == (1e-4, 5, (64, 128), 0.99)


def test_a_set_budget_replaces_the_recipes():
    r = load_recipe("quickstart", ["budget.params=0.3x"])
    assert (r.budget.kind, r.budget.limit(200)) == ("params", pytest.approx(60))


def test_a_title_says_what_was_changed_of_what_it_tells():
    assert load_recipe("quickstart", ["data.size=[64,128]"]).title == load_recipe("quickstart", []).title
    title = load_recipe("quickstart", ["budget.latency=0.5x", "prune.method=sirfp", "train.steps=9"]).title
    assert title.endswith("; changed: budget.latency=0.5x, prune.method=sirfp")
    long = "data={name: folder, root: /a/very/long/way/to/some/pictures, size: [64, 128], args: {classes: [a, b]}}"
    assert load_recipe("quickstart", [long]).title.endswith("; changed: data")


def test_budget_in_its_own_unit():
    assert Budget(macs=5e9).limit(1e12) == 5e9
    assert Budget(macs="0.25x").limit(8) == 2


def test_scientific_notation_is_a_number(tmp_path: Path):
    text = (shipped("recipes") / "deeplabv3_cap.yaml").read_text().replace("0.0001 ", "1e-4 ")
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert load_recipe(str(path)).prune.args["strength"] == 1e-4


def test_fault_names_file_line_key_and_the_nearest(tmp_path: Path):
    text = (shipped("recipes") / "quickstart.yaml").read_text().replace("  method: group_norm", "  methd: group_norm")
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    line = next(i for i, t in enumerate(text.splitlines(), 1) if "methd" in t)
    with pytest.raises(RecipeError) as fault:
        load_recipe(str(path))
    assert str(fault.value).startswith(f"{path}:{line}: prune.methd: unknown key; did you mean method?")


def test_the_resolved_recipe_can_be_run_again(tmp_path: Path):
    recipe = load_recipe("segnet_cap", ["data.root=/x"])
    path = tmp_path / "again.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    assert load_recipe(str(path)) == recipe
