"""Arguments, sizes and files that a recipe asks for: what cannot be is told before anything runs."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest

from edgeprune import sizes
from edgeprune.arguments import check_arguments
from edgeprune.compatible import check_pair
from edgeprune.errors import CheckpointError, RecipeError
from edgeprune.models import NETWORKS
from edgeprune.recipe import check_files, drawn_instead, load_recipe
from edgeprune.shipped import shipped
from edgeprune.sizes import check_sizes
from edgeprune.target import load_target

ARGUMENTS = {
    # ours, unknown, of another type, out of range
    "data.args.limit=3": "data.args.limit: is not given here but by data.train_images and data.val_images; leave it out",
    "data.args.split=val": "data.args.split: is not given here but by the stages",
    "data.args.name=x": "by data.name",
    "data.args.size=[1,2]": "by data.size",
    "data.args.root=/x": "by data.root",
    "data.args.trian=3": "data.args.trian: streets takes no such argument; did you mean train?",
    "data.args.train=0": "data.args.train: input should be greater than 0, not 0",
    "data.args.val=-1": "data.args.val: input should be greater than 0, not -1",
    "data.args.train=1000000000000": "less than or equal to 1000000",
    "data.args.seed=-1": "data.args.seed: input should be greater than or equal to 0",
    "data.args.val='80'": "data.args.val: input should be a valid integer, not '80'",
    "data.args.train=true": "data.args.train: input should be a valid integer, not true",
    "data.args={'': 1}": "takes no such argument",
    "model.args.classes=3": "model.args.classes: is not given here but by the data set",
    "model.args.self=3": "model.args.self: is not given here",
    "model.args.widht=3": "model.args.widht: streetnet takes no such argument; did you mean width?",
    "model.args.width=3.5": "model.args.width: input should be a valid integer, not 3.5",
    "model.args.width=-3": "model.args.width: input should be greater than or equal to 1, not -3",
    "model.args.blocks=100000000": "model.args.blocks: input should be less than or equal to 100, not 100000000",
    "model={network: segformer, args: {depths: [2, 2, 2, 100000000]}}": "model.args.depths[3]: input should be less than",
    "model={network: erfnet, args: {widths: [16, 64, 100000000]}}": "model.args.widths[2]: input should be less than",
    "model={network: segnet, args: {widths: [[8, x]]}}": "model.args.widths[0][1]: input should be a valid integer, not 'x'",
    "model={network: resnet, args: {stem: cifra}}": "model.network: resnet is for task: classification",
    "model={network: deeplabv3, args: {depth: 51}}": "model.args: deeplabv3 cannot be built of",
    "model={network: segformer, args: {widths: [32]}}": "model.args: segformer cannot be built of",
    "prune.args.nothing=1": "prune.args.nothing: group_norm takes no such argument",
    "prune={method: sirfp, args: {detail: yes}}": "prune.args.detail: input should be a valid number, not true",
}


@pytest.mark.parametrize("setting", ARGUMENTS)
def test_arguments_are_checked_by_signatures(setting):
    with pytest.raises(RecipeError) as fault:
        recipe = load_recipe("quickstart", [setting])
        check_pair(recipe, load_target("cpu"))
        check_sizes(recipe)
    assert ARGUMENTS[setting] in str(fault.value) and "\n" not in str(fault.value)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_number_of_our_networks_has_bounds(name):
    """Whatever is not bounded is built by the check itself, which takes hours or the machine's memory."""

    def unbounded(annotation: Any) -> bool:
        inner, bounds = annotation, ""
        if get_origin(annotation) is Annotated:
            inner, bounds = annotation.__origin__, str(annotation.__metadata__)
        if get_origin(inner) is tuple:
            of = get_args(inner)
            return (... in of and "MaxLen" not in bounds) or any(unbounded(a) for a in of if a is not ...)
        return inner is int and "Le(" not in bounds

    taken = inspect.signature(NETWORKS[name], eval_str=True).parameters
    assert [n for n, p in taken.items() if n != "classes" and unbounded(p.annotation)] == []


def test_a_union_names_every_type_and_no_branch():
    def takes(ignore: list[int] | int = 255) -> None: ...

    with pytest.raises(RecipeError, match=r"^a\.ignore: input should be a valid list, not 'x' or input should be"):
        check_arguments(takes, {"ignore": "x"}, where="a", whose="it", given={})
    check_arguments(takes, {"ignore": [1, 2]}, where="a", whose="it", given={})


def test_names_of_classes_that_yaml_reads_as_something_else(tmp_path: Path):
    (tmp_path / "x").touch()
    settings = [f"data={{name: folder, root: {tmp_path}, size: [32, 32], args: {{classes: [road, off]}}}}"]
    with pytest.raises(
        RecipeError, match=r"data\.args\.classes\[1\]: input should be a valid string, not false; YAML .*quotes"
    ):
        check_pair(load_recipe("quickstart", settings), load_target("cpu"))


SIZES = {
    ("train.batch=1000000000",): "train.batch: training on 1,000,000,000 images of 128x256 at a time takes at least ",
    ("data.size=[60000,60000]",): "train.batch: training on 8 images of 60000x60000",
    ("finetune.augment.crop=[60000,60000]",): "finetune.batch: training on 8 images of 60000x60000",
    ("data.args.val=1000000",): "data.args.val: 1,000,000 drawn pictures of 128x256 takes at least 131.1 GB",
    ("model.args.width=60000",): "model.args: a network of ",
}


@pytest.mark.parametrize("settings", SIZES)
def test_what_does_not_fit_into_memory_is_refused_with_the_figure(settings, monkeypatch):
    monkeypatch.setattr(sizes, "memory", lambda: 8 * 10**9)
    recipe = load_recipe("quickstart", list(settings))
    with pytest.raises(RecipeError) as fault:
        check_sizes(recipe, trains_here=False)
    assert SIZES[settings] in str(fault.value) and "this machine has 8.0 GB" in str(fault.value)


def test_what_training_keeps_for_the_gradient_counts_where_it_trains(monkeypatch):
    monkeypatch.setattr(sizes, "memory", lambda: 8 * 10**9)
    monkeypatch.setattr(sizes.torch.cuda, "is_available", lambda: False)
    recipe = load_recipe("quickstart", ["train.batch=2000"])  # the images alone are 0.8 GB
    check_sizes(recipe, trains_here=False)
    with pytest.raises(RecipeError, match=r"train\.batch: training on 2,000 images .*; about [1-9][0-9,]* would fit"):
        check_sizes(recipe)
    check_sizes(load_recipe("quickstart", ["train.batch=2000", "train.checkpoint_blocks=true"]))
    check_sizes(load_recipe("quickstart"))


def test_memory_is_told_in_bytes():
    assert 1 << 28 < sizes.memory() < 1 << 50


WITH_ROOT = sorted(p.stem for p in shipped("recipes").glob("*.yaml") if not p.stem.startswith("quickstart"))


@pytest.mark.parametrize("name", WITH_ROOT)
def test_a_recipe_without_its_data_says_how_to_go_on_and_that_works(name, tmp_path: Path):
    recipe = load_recipe(name, [f"data.root={tmp_path / 'nowhere'}"])
    with pytest.raises(RecipeError) as fault:
        check_files(recipe)
    assert f"does not exist; give the folder of {recipe.data.name}: --set data.root=/path/to/" in str(fault.value)
    assert f'make: set="data.root=/path/to/{recipe.data.name}"' in str(fault.value)
    trial = str(fault.value).partition(f'make recipe={name} set="')[2].partition('"')[0].split()
    assert trial == drawn_instead(recipe)
    settings = [*trial, *(["train.steps=200", "model.checkpoint=null"] if recipe.train is None else [])]
    tried = load_recipe(name, settings)
    check_files(tried)
    check_pair(tried, load_target("jetson"))


@pytest.mark.parametrize("key", ["checkpoint", "backbone_checkpoint"])
@pytest.mark.parametrize(
    ("content", "said"), [(b"", "is empty"), (b"PK\x03\x04", "is not a whole checkpoint"), (b"<html>", "HTML")]
)
def test_a_file_that_is_no_checkpoint_is_not_right(tmp_path: Path, key, content, said):
    path = tmp_path / "w.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"w\.pt: .*{said}"):
        check_files(load_recipe("quickstart", [f"model.{key}={path}"]))


@pytest.mark.parametrize("root", ["~nobody-of-that-name/x", "a" * 5000])
def test_paths_that_no_file_can_have(root):
    with pytest.raises(RecipeError, match="does not exist"):
        check_files(load_recipe("segnet_cap", [f"data.root={root}"]))
