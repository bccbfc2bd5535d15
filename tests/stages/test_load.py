"""What the dense and the pruned network score, by the recipe's protocol."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from edgeprune import models
from edgeprune.errors import DataError
from edgeprune.recipe import load_recipe
from edgeprune.stages import load
from edgeprune.stages.run import Run
from edgeprune.target import load_target

SETTINGS = ["data.name=folder", "data.size=[32,64]", "data.args={classes: [dark, bright]}"]
SIZES = [(40, 60), (32, 64), (70, 33)]


def runs_of(tmp_path, *more: str) -> Run:
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / split / kind).mkdir(parents=True, exist_ok=True)
        for i, (h, w) in enumerate(SIZES):
            label = (np.arange(w) > w / 2).astype(np.uint8)[None].repeat(h, 0)
            Image.fromarray(np.repeat(label[..., None] * 255, 3, 2)).save(tmp_path / split / "images" / f"{i}.png")
            Image.fromarray(label).save(tmp_path / split / "labels" / f"{i}.png")
    recipe = load_recipe("quickstart", [*SETTINGS, f"data.root={tmp_path}", *more])
    return Run(recipe, load_target("cpu"), tmp_path / "run", Console(quiet=True))


def test_without_a_protocol_all_is_at_the_engines_size(tmp_path):
    run = runs_of(tmp_path)
    net = models.build("streetnet", {"width": 8, "blocks": 1}, None, 2)
    found = load.score(run, net)
    assert found.matrices.sum() == 3 * 32 * 64 and found.masks.shape == (3, 32, 64)
    assert "evaluate" not in load.facts_of(run, net, found)


def test_labels_at_their_own_size(tmp_path):
    run = runs_of(tmp_path, "data.evaluate={native: true, flip: true, scales: [1.0, 1.5]}")
    net = models.build("streetnet", {"width": 8, "blocks": 1}, None, 2)
    found = load.score(run, net)
    assert [m.sum() for m in found.matrices] == [h * w for h, w in SIZES]
    facts = load.facts_of(run, net, found)
    assert facts["evaluate"]["native"] and facts["input"] == [32, 64]
    assert load.dataset(run, "val")[0][1].shape == (32, 64)  # what the engine is judged on stays


def test_windows_at_the_engines_size(tmp_path):
    run = runs_of(tmp_path, "data.evaluate={mode: slide, crop: [32, 32]}")
    found = load.score(run, models.build("streetnet", {"width": 8, "blocks": 1}, None, 2))
    assert found.matrices.sum() == 3 * 32 * 64


def test_training_views_keep_the_images_shape(tmp_path):
    """Each image is half dark, half bright: its edge stands where the shape says, and a view has the engine's size."""
    run = runs_of(
        tmp_path, "data.train_short_side=32", "train.augment={scale: [1, 1], flip: 0, color: 0}", "train.batch=3"
    )
    assert run.recipe.train is not None
    made = load.batches(run, run.recipe.train, 0)
    assert [made.data[i][1].shape for i in range(3)] == [(32, 48), (32, 64), (68, 32)]
    assert made.data.label(2).shape == (68, 32)
    images, labels = next(made.stream())
    assert images.shape == (3, 3, 32, 64)
    judged = sorted(int((label != 255).sum()) for label in labels)
    assert judged == [32 * 32, 32 * 48, 32 * 64]
    assert load.dataset(run, "train")[0][1].shape == (32, 64)


def test_by_default_views_are_of_the_engines_size(tmp_path):
    run = runs_of(tmp_path)
    assert run.recipe.train is not None
    made = load.batches(run, run.recipe.train, 0)
    assert made.data is load.dataset(run, "train") and made.crop == (32, 64)


def test_large_sets_are_read_all_over_and_still_refused_where_only_one_class_is_there(tmp_path):
    """Labels of 0 and 255, where 255 is not judged: a whole set of one class, however many files are looked at."""
    run = runs_of(tmp_path)
    read: list[int] = []

    class Many:
        classes = ["dark", "bright"]

        def __len__(self):
            return 10

        def __getitem__(self, index):
            read.append(index)
            return np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "dataset", lambda run, split: Many())
        with pytest.raises(
            DataError, match="all that is judged in 5 training labels is of one class; never there: bright"
        ):
            load._read_through(run, "train", most=5)
    assert read == [0, 2, 4, 6, 8]


def test_validation_that_judges_nothing_is_refused_before_training(tmp_path, monkeypatch):
    run = runs_of(tmp_path)
    whole = load.dataset(run, "train")

    class Blank:
        classes = ["dark", "bright"]

        def __len__(self):
            return 3

        def __getitem__(self, index):
            return np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 255, np.uint8)

    monkeypatch.setattr(load, "dataset", lambda run, split: Blank() if split == "val" else whole)
    monkeypatch.setattr(load, "train", lambda *args, **kwargs: pytest.fail("it was trained"))
    with pytest.raises(DataError, match="nothing that is judged lies in 3"):
        load.load(run)


def test_which_of_two_sets_of_weights_was_taken_is_a_line(tmp_path):
    net = models.build("streetnet", {"width": 8, "blocks": 1}, None, 2)
    plain = net.state_dict()
    averaged = {k: v + 1 if v.is_floating_point() else v for k, v in plain.items()}
    torch.save({"model": plain, "model_ema": averaged}, tmp_path / "w.pt")
    for more, taken, said in (
        ([], averaged, "w.pt: the averaged weights, model_ema; model.checkpoint_key=model takes the plain ones\n"),
        (["model.checkpoint_key=model"], plain, ""),
    ):
        run = runs_of(tmp_path, "train=null", f"model.checkpoint={tmp_path / 'w.pt'}", *more)
        shown = replace(run, console=Console(file=io.StringIO()))
        load._weights(shown, net)
        assert torch.equal(net.state_dict()["classifier.weight"], taken["classifier.weight"])
        assert shown.console.file.getvalue().endswith(said)


def test_splits_that_number_their_classes_differently_are_refused(tmp_path, monkeypatch):
    run = runs_of(tmp_path)
    of = load.dataset
    other = {"train": of(run, "train"), "val": replace(of(run, "val"), classes=["bright", "dark"])}
    monkeypatch.setattr(load, "dataset", lambda run, split: other[split])
    with pytest.raises(DataError, match="training has the classes dark, bright, validation bright, dark"):
        load.load(run)
