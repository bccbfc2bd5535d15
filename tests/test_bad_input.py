"""Bad input: one clear line that names the place, and the documented exit status. No traceback."""

import json
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import edgeprune
from edgeprune import models
from edgeprune.errors import EdgepruneError, ModelError
from edgeprune.shipped import shipped

SMALL = [
    "train.steps=1",
    "finetune.steps=1",
    "data.args.train=4",
    "data.args.val=2",
    "prune.batches=1",
    "train.batch=2",
]

SETTINGS = [
    ("prune.methd=l1", "did you mean method?"),
    ("modle.network=segnet", "did you mean model?"),
    ("prune.rounds=[{keep: 0.7x, fintune: null}]", "prune.rounds[0].fintune: unknown key; did you mean finetune?"),
    ("prune={method: mtp, sparsity: {steps: 1, autocast: fp16}}", "prune.sparsity.autocast: mtp reads"),
    ("nonsense", "write key=value"),
    ("name.x=1", "has no keys below"),
    ("train.lr=-1", "greater than 0"),
    ("train.lr=.nan", "finite"),
    ("train.batch=many", "valid integer"),
    ("train.optimizer=adam", "'sgd' or 'adamw'"),
    ("data.size=[1,2,3]", "at most 2"),
    ("data.size=[100,256]", "multiples of 16"),
    ("data.name=imagenet", "'cityscapes'"),
    ("data.name=camvid", "data.root is missing"),
    ("data.evaluate={mode: sliding}", "'whole' or 'slide'"),
    ("data.evaluate={crop: [64, 64]}", "belong to mode: slide"),
    ("data.evaluate={mode: slide, crop: [64, 64], stride: [64, 80]}", "gaps would be left"),
    ("data.evaluate={mode: slide, crop: [64, 65]}", "data.evaluate.crop: streetnet wants multiples of 16"),
    ("data.evaluate={short_side: 512}", "short_side belongs to native: true"),
    ("data.evaluate={native: true}", "streets are drawn at data.size"),
    ("data.train_short_side=512", "no shape of their own"),
    ("data.evaluate={scales: []}", "at least 1"),
    ("data.evaluate={scales: [0]}", "greater than 0"),
    ("train.resample=balanced", "'none' or 'class_balanced'"),
    ("budget.macs=1.5x", "between 0x and 1x"),
    ("budget.macs=half", 'such as "0.4x"'),
    ("budget.latency_ms=-5", "greater than 0"),
    ("budget.latency=5", "did you mean budget.latency_ms=5?"),
    ("budget.latency=1.5x", "between 0x and 1x"),
    ("prune.worth=guess", "'sensitivity', 'score' or 'sum'"),
    ("train=null", "model.checkpoint and train are both missing"),
    ("prune.args.detail=1", "group_norm takes no such argument"),
    ("prune.method=sirpf", "did you mean sirfp?"),
    ("prune={method: sirfp, args: {detial: 1}}", "did you mean detail?"),
    ("prune={method: sirfp, args: {scale: cosin}}", "prune.args.scale: input should be 'l1' or 'cosine', not 'cosin'"),
    ("prune={method: sirfp, args: {detail: much}}", "valid number"),
    ("prune.rounds=[{keep: 0.7x, args: {normalise: true}}]", "prune.rounds.0.args.normalise: input should be"),
    ("prune={method: l1, sparsity: {steps: 3}}", "l1 has no sparsity term"),
    ("prune.method=ns", "prune.sparsity is missing: ns"),
    ("prune.method=acosp", "prune.sparsity is missing: acosp"),
    ("prune.rounds=[{keep: 0.7}]", "did you mean 0.7x?"),
    ("prune.rounds=[{keep: 1.5x}]", "between 0x and 1x"),
    ("prune.rounds=[{keep: 0.5x}, {keep: 0.7x}]", "keeps less than the one before"),
    ("prune.rounds=[{keep: 0.7x, args: {detial: 1}}]", "prune.rounds.0.args.detial"),
    ("train.loss.kind=focal", "segmentation is learnt by ce or ohem or gsrl, not focal"),
    ("train.loss.kind=dice", "'ce', 'ohem', 'gsrl' or 'focal'"),
    ("task=pose", "'segmentation', 'classification' or 'detection'"),
    ("task=classification", "data.name: streets is for task: segmentation; classification has objects, cifar10"),
    ("data={name: objects, size: [32, 32]}", "data.name: objects is for task: classification"),
    ("model={network: ssd}", "model.network: ssd is for task: detection; segmentation has bisenetv2"),
    ("deploy.gates.min_top1=50", "deploy.gates.min_top1: not of task: segmentation, which has miou_drop"),
    ("model.network=segnt", "did you mean segnet?"),
    ("seed=-1", "greater than or equal to 0"),
    ("deploy.opset=11", "greater than or equal to 18"),
    ("model.factory=a:b", "exactly one of them"),
    ("model.checkpoint=/nowhere.safetensors", "does not exist"),
    ("name=../../etc", "string should match pattern"),
]


def one_line(err: str, *parts: str) -> None:
    lines = [line for line in err.strip().splitlines() if line.startswith("error:")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    for part in parts:
        assert part in lines[0], lines[0]


@pytest.mark.parametrize(("setting", "said"), SETTINGS)
def test_settings(cli, setting, said):
    code, _, err = cli("check", "quickstart", "--set", setting)
    assert code == 2
    one_line(err, said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must be `key: value` lines"),
        ("a: [1", "not YAML"),
        ("name: x\nname: y\n", "name stands twice (also in line 1)"),
        ("- 1\n- 2\n", "must be `key: value` lines"),
        ("a: &a [*a, *a]\n", "does an alias refer to itself?"),
        (
            "".join(f"k{n}: &k{n} [{', '.join([f'*k{n - 1}'] * 9) if n else '1'}]\n" for n in range(9)),
            "more than any recipe holds",
        ),
        ("x: !!python/object/apply:os.system ['echo hi']\n", "not YAML"),
    ],
)
def test_recipe_files(cli, tmp_path: Path, text, said):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    code, _, err = cli("check", str(path))
    assert code == 2
    one_line(err, said, "mine.yaml")


def test_a_latency_that_nothing_can_tell_is_refused_before_training(cli):
    code, _, err = cli("check", "quickstart", "--target", "intel-npu", "--set", "budget.latency=0.5x")
    assert code == 2
    one_line(err, "intel-npu cannot be measured", "budget.macs")


def test_profile_and_search_say_what_is_missing(cli, tmp_path: Path):
    for args, said in (
        (("profile",), "give --recipe"),
        (("profile", "--show", "--table", str(tmp_path / "new.sqlite")), "is empty"),
        (("profile", "--recipe", "quickstart", "--target", "jetson"), "its Python module is not found"),
        (("search", "quickstart", "--methods", "sirpf", "--budgets", "0.5x"), "did you mean sirfp?"),
        (("search", "quickstart", "--budgets", "half"), "budget.latency"),
        (("search", "quickstart", "--budgets", "flops=0.5x"), "flops"),
        (("search", "quickstart", "--budgets", "macs=0.5"), "did you mean 0.5x?"),
        (
            ("search", "quickstart", "--budgets", "fps=1e400"),
            "--budgets: fps=1e400 is no budget.fps: input should be a finite number",
        ),
        (("search", "quickstart", "--budgets", ","), "--budgets: give one or more"),
        (("compare", "quickstart", "--seeds", "some"), "--seeds"),
        (("compare", "quickstart", "--seeds", "99999999999999"), "at most 1000"),
        (("compare", "quickstart", "--seeds", "99999999999999,1"), "--seeds: 99999999999999,1"),
        (("compare", "quickstart", "--methods", "l1,cap"), "prune.sparsity is missing"),
        (("compare", "quickstart", "quikstart"), "did you mean quickstart?"),
    ):
        code, _, err = cli(*args)
        assert code in (2, 4), err
        one_line(err, said)


def test_unknown_names(cli):
    for args, said in (
        (("check", "quikstart"), "did you mean quickstart?"),
        (("check", "quickstart", "-t", "jetsn"), "did you mean jetson?"),
    ):
        code, _, err = cli(*args)
        assert code == 2
        one_line(err, said)


def test_precision_that_the_target_has_not(cli):
    code, _, err = cli("check", "quickstart", "-t", "jetson", "--set", "deploy.precision=bf16")
    assert code == 2
    one_line(err, "deploy.precision: jetson has f32, f16, int8")


def test_a_share_of_the_dense_engine_and_the_fastest_precision(cli):
    code, _, err = cli("check", "quickstart", "--set", "deploy.precision=fastest", "--set", "budget.latency=0.5x")
    assert code == 2
    one_line(err, "deploy.precision: fastest does not go with budget.latency", "budget.latency_ms")
    assert cli("check", "quickstart", "--set", "deploy.precision=fastest", "--set", "budget.latency_ms=5")[0] == 0


def test_int8_where_it_cannot_be_built(cli):
    code, _, err = cli("check", "quickstart", "-t", "cpu-inductor", "--set", "deploy.precision=int8")
    assert code == 2
    one_line(err, "deploy.precision: cpu-inductor has f32, bf16, not int8")


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("/tmp/edgeprune-ran-code"),))


def weights(classes: int = 9, **args) -> dict:
    return {k: v.clone() for k, v in models.build("streetnet", args, None, classes).state_dict().items()}


def _nan(path: Path) -> None:
    w = weights()
    w["classifier.weight"][0] = float("nan")
    save_file(w, path)


def _without(path: Path) -> None:
    w = weights()
    del w["classifier.bias"]
    save_file(w, path)


def _more(path: Path) -> None:
    save_file({**weights(), "head.extra": torch.zeros(1)}, path)


CHECKPOINTS = {
    "code.pt": (lambda p: p.write_bytes(pickle.dumps({"a": Evil()})), "checkpoint"),
    "code2.pth": (lambda p: torch.save({"state_dict": weights(), "x": Evil()}, p), "would run its code"),
    "cut.safetensors": (lambda p: p.write_bytes(b"\x10\0\0"), "not a whole checkpoint"),
    "cut.pt": (lambda p: p.write_bytes(b"PK\x03\x04garbage"), "not a whole checkpoint"),
    "classes.safetensors": (lambda p: save_file(weights(19), p), "another number of classes?"),
    "net.safetensors": (lambda p: save_file({"fc.weight": torch.zeros(2)}, p), "weights are missing"),
    "nan.safetensors": (_nan, "NaN or infinity"),
    "missing.safetensors": (_without, "classifier.bias"),
    "more.safetensors": (_more, "head.extra"),
    "junk.pt": (lambda p: p.write_text("junk\n"), "neither safetensors nor a torch file"),
    "pointer.pth": (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\n"), "not a whole checkpoint"),
    "numbers.pt": (lambda p: torch.save({0: torch.ones(2)}, p), "not a named tensor"),
    "list.pt": (lambda p: torch.save([1, 2], p), "not a dict of weights"),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoints(cli, tmp_path: Path, name):
    make, said = CHECKPOINTS[name]
    path = tmp_path / name
    make(path)
    mark = Path("/tmp/edgeprune-ran-code")
    mark.unlink(missing_ok=True)
    settings = [*SMALL, f"model.checkpoint={path}"]
    code, _, err = cli(
        "run", "quickstart", "--runs-dir", str(tmp_path / "runs"), *[x for s in settings for x in ("--set", s)]
    )
    assert code == 1
    one_line(err, name, said)
    assert not mark.exists()


def folder(root: Path) -> None:
    """Two classes, four images, right in every way."""
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / split / kind).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(np.full((32, 32, 3), 40 * i, np.uint8)).save(root / split / "images" / f"{i}.png")
            Image.fromarray(np.eye(32, dtype=np.uint8)).save(root / split / "labels" / f"{i}.png")


DATA = {
    "unknown id": (
        lambda r: Image.fromarray(np.full((32, 32), 7, np.uint8)).save(r / "val/labels/1.png"),
        "label holds id 7",
    ),
    "other size": (
        lambda r: Image.fromarray(np.zeros((16, 32), np.uint8)).save(r / "train/labels/0.png"),
        "label is 16x32",
    ),
    "colours": (lambda r: Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(r / "val/labels/0.png"), "mode RGB"),
    "cut file": (lambda r: (r / "val/images/1.png").write_bytes(b"\x89PNG\r\n\x1a\n123"), "image cannot be read"),
    "no label": (lambda r: (r / "train/labels/1.png").unlink(), "its label is missing"),
    "no folder": (lambda r: (r / "val/labels").rename(r / "val/gone"), "is not a folder"),
    "255 for 1": (
        lambda r: [
            Image.fromarray(np.eye(32, dtype=np.uint8) * 255).save(r / f"train/labels/{i}.png") for i in range(2)
        ],
        "all that is judged in 2 training labels is of one class; never there: b",
    ),
    "empty": (lambda r: [p.unlink() for p in (r / "val/images").iterdir()], "holds no images"),
}


@pytest.mark.parametrize("name", DATA)
def test_data_faults_name_the_file(cli, tmp_path: Path, name):
    spoil, said = DATA[name]
    root = tmp_path / "set"
    folder(root)
    spoil(root)
    settings = [
        "data.name=folder",
        f"data.root={root}",
        "data.args={classes: [a, b]}",
        "data.size=[32,32]",
        "train.steps=1",
    ]
    code, _, err = cli(
        "run", "quickstart", "--runs-dir", str(tmp_path / "runs"), *[x for s in settings for x in ("--set", s)]
    )
    assert code == 1
    one_line(err, said, *([] if name == "255 for 1" else [str(root)]))


def test_a_layer_that_is_not_there(cli, tmp_path: Path):
    settings = [*SMALL, "prune.never=[stem, backbone]"]
    code, _, err = cli("run", "quickstart", "--runs-dir", str(tmp_path), *[x for s in settings for x in ("--set", s)])
    assert code == 2
    one_line(err, "prune.never: 'backbone' names no layer of the network")


def test_a_fault_in_a_loading_process_is_one_line_too():
    from edgeprune.cli import one_line as shown
    from edgeprune.errors import DataError

    trace = "Caught DataError in worker 0.\nOriginal Traceback:\n  File x\nedgeprune.errors.DataError: a.png: label is missing\n"
    assert shown(DataError(trace)) == "a.png: label is missing"


def test_a_factory_that_is_not_there(cli, tmp_path: Path):
    settings = [*SMALL, "model.network=null", "model.factory=no_such_package.nets:build"]
    code, _, err = cli("run", "quickstart", "--runs-dir", str(tmp_path), *[x for s in settings for x in ("--set", s)])
    assert code == 2
    one_line(err, "model.factory", "package.module:function")


def test_a_factory_beside_the_recipe_is_found(tmp_path: Path, monkeypatch):
    """An installed command does not look in the working directory by itself."""
    (tmp_path / "beside_it.py").write_text(
        "from torch import nn\ndef build(classes):\n    return nn.Conv2d(3, classes, 1)\n"
        "def as_torchvision(*, num_classes=21, **kwargs):\n    return nn.Conv2d(3, num_classes, 1, **kwargs)\n"
    )
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", os.getcwd())])
    monkeypatch.chdir(tmp_path)
    assert models.build(None, {}, "beside_it:build", 5).out_channels == 5
    assert models.build(None, {}, "beside_it:as_torchvision", 5).out_channels == 5


def test_a_folder_runs_no_code_that_only_itself_names(tmp_path: Path):
    plan = {"schema": 1, "network": {"network": None, "factory": "os:getcwd", "args": {}, "classes": 2}}
    (tmp_path / "plan.json").write_text(json.dumps(plan | {"groups": {}, "tensors": {}, "source": ""}))
    with pytest.raises(
        EdgepruneError, match=r"built by the code 'os:getcwd'; if you trust that, load\(…, factory='os:getcwd'\)"
    ):
        edgeprune.load(tmp_path)


def test_a_budget_out_of_reach_says_the_smallest(cli, tmp_path: Path):
    settings = [*SMALL, "budget.macs=0.001x"]
    code, _, err = cli("run", "quickstart", "--runs-dir", str(tmp_path), *[x for s in settings for x in ("--set", s)])
    assert code == 1
    one_line(err, "cannot be reached", "smallest")


def test_debug_shows_the_trace(cli):
    with pytest.raises(Exception, match="unknown key"):
        cli("--debug", "check", "quickstart", "--set", "prune.methd=l1")


def test_shipped_folder_is_whole():
    assert (shipped("deploy/on_device") / "check.py").is_file()


@pytest.mark.parametrize("factory", ["nosuch_module:build", "torch", ":build"])
def test_a_factory_that_is_nowhere_is_refused_by_check(cli, factory):
    code, _, err = cli("check", "quickstart", "--set", "model.network=null", "--set", f"model.factory={factory}")
    assert code == 2
    one_line(err, "model.factory", "package.module:function")


def test_what_a_factory_fails_of_is_told_in_one_line(tmp_path: Path, monkeypatch):
    (tmp_path / "failing_one.py").write_text(
        "def build(classes):\n    raise KeyError('no such encoder\\nthere are many')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        ModelError, match=r"model.factory: failing_one:build failed: KeyError: 'no such encoder"
    ) as told:
        models.build(None, {}, "failing_one:build", 5)
    assert "\n" not in str(told.value)
    with pytest.raises(ModelError, match="model.args: failing_one:build does not take them"):
        models.build(None, {"width": 3}, "failing_one:build", 5)
