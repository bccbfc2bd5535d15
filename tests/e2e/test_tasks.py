"""Classification and detection through every stage, and their bundle's own check; tiny."""

import functools
import html
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeprune.deploy import fair, front
from tests.devices.brought import as_if_of
from tests.e2e.running import called

SETTINGS = [
    "train.steps=6", "train.batch=4", "finetune.steps=4", "finetune.batch=4", "finetune.recalibrate_batches=2", "prune.batches=2",
    "prune.step=2", "deploy.latency_runs=5", "deploy.parity_images=3", "deploy.simplify=false", "deploy.gates.pruning_drop=null",
]  # fmt: skip
OWN = {
    "classification": ["model.args.width=8", "data.args={train: 15, val: 10}", "deploy.gates.min_top1=null"],
    "detection": [
        "model.args={width: 8, head: 16, extra: [16]}", "data.size=[64,96]", "data.args={train: 8, val: 4}",
        "deploy.gates.min_map=null",
    ],
}  # fmt: skip


def run(runs: Path, task: str, target: str, *more: str) -> subprocess.CompletedProcess:
    settings = [x for s in (*SETTINGS, *OWN[task], *more) for x in ("--set", s)]
    line = [sys.executable, "-m", "edgeprune", "run", f"quickstart_{task}", "--target", target, "--runs-dir", str(runs)]
    return called([*line, *settings])


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Callable[[str], tuple[Path, subprocess.CompletedProcess]]:
    """task -> (the run's folder, what the run on this CPU said)."""

    @functools.cache
    def of(task: str) -> tuple[Path, subprocess.CompletedProcess]:
        runs = tmp_path_factory.mktemp(task)
        done = run(runs, task, "cpu")
        assert done.returncode == 0, done.stderr
        return runs / f"quickstart_{task}@cpu", done

    return of


@pytest.mark.parametrize(
    ("task", "key", "words"),
    [
        ("classification", "top1", ("top-1", "accuracy per class", "images like PyTorch's")),
        ("detection", "map50", ("mAP@0.5", "AP@0.5 per class", "boxes like PyTorch's")),
    ],
)
def test_every_stage_and_the_report(finished, task, key, words):
    home, done = finished(task)
    assert f"dense: {words[0]}" in done.stderr and "mIoU" not in done.stderr
    r = json.loads((home / "report.json").read_text())
    assert r["task"] == task and r["metric"]["key"] == key and r["metric"]["name"] == words[0]
    for row in ("dense", "pruned", "engine"):
        assert 0 <= r[row][key] <= 1 and set(r[row][r["metric"]["per_class"]]) == set(r["data"]["classes"])
    assert [a["stage"] for a in r["attribution"]] == ["dense", "pruned", "onnx", "simplified", "engine"]
    assert r["engine"][r["metric"]["agreement"]] > 0.9 and r["engine"]["precision_found"] == "f32"
    assert r["budget"]["met"] and all(g["passed"] for g in r["gates"]) and len(r["gates"]) == 4
    row = fair.row(r)
    assert row["metric"] == words[0] == front.row(r, 0)["metric"] and row["score"] == 100 * r["engine"][key]
    assert fair.headings([row])[1] == f"engine's {words[0]}" and row["worst_class"] in r["data"]["classes"]
    page = html.unescape((home / "report.html").read_text())
    assert "IoU" not in page and [w for w in words if w not in page] == []
    assert page.count("data:image/png;base64") == 4 * 5


@pytest.mark.parametrize(
    ("task", "agreement", "answer"),
    [("classification", "top1_agreement", "logits"), ("detection", "box_agreement", "raw heads")],
)
def test_the_bundle_is_checked_without_edgeprune_and_its_result_brought_back(
    finished, tmp_path, task, agreement, answer, cli
):
    shutil.copytree(finished(task)[0], tmp_path / f"quickstart_{task}@intel-gpu")  # the dense network is the same
    done = run(tmp_path, task, "intel-gpu", "deploy.precision=f32")  # its bundle can be run on this CPU
    assert done.returncode == 4, done.stderr
    home = tmp_path / f"quickstart_{task}@intel-gpu"
    bundle, out = home / "bundle", tmp_path / "r.json"
    assert (bundle / "boxes.py").exists() == (task == "detection")
    command = [
        sys.executable,
        "-S",
        "-c",
        _ALONE,
        str(bundle / "check.py"),
        "--device",
        "CPU",
        "--precision",
        "f32",
    ]
    checked = subprocess.run(
        [*command, "--runs", "5", "--seconds", "0.05", "--out", str(out)], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stderr + checked.stdout
    r = json.loads(out.read_text())
    assert r[agreement] == 1 and r["images"] == 3 and r["task"] == task
    names = {g["name"] for g in r["gates"]}
    assert names == ({"top1_drop", "class_drop", "top1_agreement"} if task == "classification" else {"box_agreement"})
    assert r["not_judged"] == ([] if task == "classification" else ["class_drop", "map_drop"])
    brought = tmp_path / "r.zip"
    code, _, err = cli("verify", "--result", str(brought), "--runs-dir", str(tmp_path))
    assert code == 1 and "it ran on CPU, and intel-gpu means GPU" in err
    as_if_of("GPU", brought.read_bytes(), brought)
    code, _, err = cli("verify", "--result", str(brought), "--runs-dir", str(tmp_path))
    assert code == 0, err
    told = json.loads((home / "report.json").read_text())
    assert told["engine"]["measured"] and told["engine"][agreement] == 1 and told["engine"]["images"] == 3
    assert told["engine"]["latency"]["boundary"] == r["latency"]["boundary"] == f"image to {answer}"
    assert set(told["boundaries"]["boundaries"]) == {"engine", f"image to {answer}", "paced"}
    assert cli("run-engine", str(bundle), "--source", str(tmp_path))[0] == 1
    played = subprocess.run(
        [sys.executable, "-B", str(bundle / "play.py"), "--source", str(tmp_path)], capture_output=True, text=True
    )
    assert played.returncode == 1 and played.stderr.count("\n") == 1 and f"this bundle is of {task}" in played.stderr


_ALONE = """
import sys, site
site.main()
class Ours:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("edgeprune", "torch"):
            raise ImportError(name)
sys.meta_path.insert(0, Ours())
sys.argv = sys.argv[1:]
import runpy
runpy.run_path(sys.argv[0], run_name="__main__")
"""
