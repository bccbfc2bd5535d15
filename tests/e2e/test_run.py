"""The real thing in small: every stage, real engines, killed and resumed, damaged and repaired."""

import io
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import edgeprune
from edgeprune import pipeline, progress
from edgeprune.files import lock, read_json
from edgeprune.recipe import load_recipe
from edgeprune.target import load_target
from edgeprune.train import sparse
from tests.e2e.running import SETTINGS, STAGES, check_bundle, command, report, run, started, together
from tests.forks import ranks

FACTORY = "tests.e2e.tiny:build"


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    done = run(runs)
    assert done.returncode == 0, done.stderr
    return runs


def test_report_keeps_the_contract(finished: Path):
    r = report(finished)
    assert r["schema"] == 1 and r["recipe"] == "quickstart" and r["target"] == "cpu"
    for role in ("dense", "pruned"):
        assert {"miou", "iou_per_class", "params", "macs", "latency"} <= set(r[role])
    assert {
        "backend",
        "precision_asked",
        "precision_found",
        "miou",
        "boundary_iou",
        "pixel_agreement",
        "latency",
        "dense_latency",
    } <= set(r["engine"])
    assert r["engine"]["precision_found"] == "f32" and r["engine"]["latency"]["count"] == 6
    assert r["budget"]["met"] and r["budget"]["achieved"] <= r["budget"]["limit"] < r["budget"]["dense"]
    assert r["pruned"]["macs"] == r["budget"]["achieved"]  # planned and counted by fvcore agree
    assert [s["name"] for s in r["stages"]] == STAGES
    assert r["gates"] and all(g["passed"] for g in r["gates"])


def test_page_stands_alone(finished: Path):
    page = (finished / "quickstart@cpu" / "report.html").read_text()
    assert "<script" not in page and 'src="http' not in page and page.count("data:image/png;base64") == 24


def test_second_run_skips_and_says_the_same(finished: Path):
    before = report(finished)
    done = run(finished)
    assert done.returncode == 0 and done.stderr.count("skipped") == len(STAGES)
    after = report(finished)
    assert after["engine"] == before["engine"] and all(s["skipped"] for s in after["stages"])
    assert "no better than guessing" in after["headline"][0], "after eight steps"
    assert done.stderr.splitlines()[-len(after["headline"]) :] == after["headline"]
    first = (finished / "quickstart@cpu" / "report.html").read_text().split("</h1>")[1]
    assert "dense network is no better than guessing" in first.split("gates")[0]


def test_load_gives_the_network_back_bit_for_bit(finished: Path, tmp_path):
    code = (
        f"import sys, torch, edgeprune, numpy as np; net = edgeprune.load(sys.argv[1], {FACTORY!r}); torch.manual_seed(0);"
        "np.save(sys.argv[2], net(torch.randn(1, 3, 64, 128)).detach().numpy())"
    )
    subprocess.run([sys.executable, "-c", code, str(finished / "quickstart@cpu"), str(tmp_path / "o.npy")], check=True)
    net = edgeprune.load(finished / "quickstart@cpu", FACTORY)
    torch.manual_seed(0)
    np.testing.assert_array_equal(np.load(tmp_path / "o.npy"), net(torch.randn(1, 3, 64, 128)).detach().numpy())


def test_a_damaged_file_is_made_again(finished: Path, tmp_path):
    shutil.copytree(finished, tmp_path / "runs")
    path = tmp_path / "runs" / "quickstart@cpu" / "simplify" / "pruned.onnx"
    path.write_bytes(path.read_bytes()[:500])
    done = run(tmp_path / "runs")
    assert done.returncode == 0 and "missing or damaged; stage simplify is done again" in done.stderr
    manifest = tmp_path / "runs" / "quickstart@cpu" / "manifest.json"
    manifest.write_text(manifest.read_text()[:100])
    done = run(tmp_path / "runs")
    assert done.returncode == 1 and "not whole JSON" in done.stderr and "Traceback" not in done.stderr


def test_another_budget_keeps_the_dense_network(finished: Path, tmp_path):
    """And one that no width reaches takes whole blocks away, all the way to the engine and the report."""
    shutil.copytree(finished, tmp_path / "runs")
    done = run(tmp_path / "runs", "budget.params=0.2x", "prune.allocate=knapsack", "prune.min_keep=0.5")
    assert done.returncode == 0, done.stderr
    r = report(tmp_path / "runs")
    assert [s["name"] for s in r["stages"] if s["skipped"]] == ["load"]
    assert r["pruned"]["params"] / r["dense"]["params"] <= 0.2 and r["budget"]["kind"] == "params"
    assert "removed whole: " in done.stderr
    assert "holds another variant of quickstart (" in done.stderr and "--set name=… keeps both" in done.stderr
    assert "budget.macs 0.4x → null" in done.stderr
    gone = [row for row in r["layers"]["rows"] if row["why"] == "removed"]
    assert gone and all(row["ms"][1] == 0 and row["macs"][1] == 0 for row in gone)


def test_the_fastest_precision_ships(finished: Path, tmp_path):
    """Whichever that is on this machine; the networks stay, and a second run finds the choice made."""
    shutil.copytree(finished, tmp_path / "runs")
    done = run(tmp_path / "runs", "deploy.precision=fastest")
    assert done.returncode == 0, done.stderr
    r = report(tmp_path / "runs")
    told = r["precisions"]
    rows = {c["asked"]: c for c in told["candidates"]}
    assert rows.keys() == {"f32", "f16", "bf16", "int8"} and told["reference"] == "f32" and told["why_not"] is None
    assert [name for name, c in rows.items() if c["chosen"]] == [told["chosen"]] and rows[told["chosen"]]["passed"]
    assert r["engine"]["precision_asked"] == told["chosen"]
    assert r["engine"]["precision_found"] == rows[told["chosen"]]["found"]
    assert rows["int8"]["found"] == "int8" and rows["int8"]["gates"] and rows["int8"]["ci95"]
    for c in rows.values():
        assert c["left_out"] or {g["name"] for g in c["gates"]} >= {"miou_drop", "class_drop", "pixel_agreement"}
    assert [s["name"] for s in r["stages"] if s["skipped"]] == [
        "load",
        "profile",
        "prune",
        "finetune",
        "export",
        "simplify",
    ]
    assert not (tmp_path / "runs" / "quickstart@cpu" / "precision" / "int8").exists(), "only what ships is kept"
    assert "<h2>Precisions</h2>" in (tmp_path / "runs" / "quickstart@cpu" / "report.html").read_text()
    again = run(tmp_path / "runs", "deploy.precision=fastest")
    assert again.returncode == 0 and again.stderr.count("skipped") == len(STAGES)
    assert report(tmp_path / "runs")["precisions"] == told


def test_two_runs_into_one_folder_are_refused(finished: Path):
    with lock(finished / "quickstart@cpu"):
        done = run(finished)
    assert done.returncode == 1 and "another run" in done.stderr and str(os.getpid()) in done.stderr


def test_a_gate_that_fails_is_exit_3(finished: Path, tmp_path):
    shutil.copytree(finished, tmp_path / "runs")
    done = run(tmp_path / "runs", "deploy.gates.min_miou=99.5")
    assert done.returncode == 3 and "FAILED" in done.stderr
    assert (tmp_path / "runs" / "quickstart@cpu" / "report.html").exists()
    again = [s["name"] for s in report(tmp_path / "runs")["stages"] if not s["skipped"]]
    assert again == ["verify", "bundle"], "what is judged by has changed, and not what is judged"


def test_killed_at_any_moment_it_goes_on(finished: Path, tmp_path):
    """kill -9 again and again; the weights at the end are those of the run that nobody killed."""
    home, kills = tmp_path / "runs" / "quickstart@cpu", 0
    for mark in ["load/checkpoint.pt", "prune/plan.json", "export/pruned.onnx", "verify/gates.json"]:
        process = started(command(tmp_path / "runs"), [tmp_path / "stdout", tmp_path / "stderr"])
        deadline = time.monotonic() + 120
        while process.is_alive() and not (home / mark).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        kills += process.is_alive()
        process.kill()
        process.join()
    assert kills >= 3
    done = run(tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    whole = (finished / "quickstart@cpu" / "finetune" / "weights.safetensors").read_bytes()
    assert (home / "finetune" / "weights.safetensors").read_bytes() == whole


def test_cap_trains_under_its_sparsity_term(finished: Path, tmp_path):
    shutil.copytree(finished / "quickstart@cpu", tmp_path / "quickstart@cpu")
    done = run(tmp_path, "prune.method=cap", "prune.args={strength: 0.01}", "prune.sparsity={steps: 3, batch: 4}")
    assert done.returncode == 0, done.stderr
    assert "sparsity: step 3 of 3" in done.stderr
    assert (tmp_path / "quickstart@cpu" / "prune" / "history.json").exists()


def test_weights_of_two_in_four_ship(finished: Path, tmp_path):
    shutil.copytree(finished, tmp_path / "runs")
    done = run(tmp_path / "runs", "finetune.weights=2of4")
    assert done.returncode == 0 and "2:4 weights in " in done.stderr
    assert sparse.holds(edgeprune.load(tmp_path / "runs" / "quickstart@cpu", FACTORY))
    assert not sparse.holds(edgeprune.load(finished / "quickstart@cpu", FACTORY))


def test_your_own_network_needs_no_change_of_ours(tmp_path, monkeypatch):
    (tmp_path / "my_nets.py").write_text(
        "from torch import nn\n"
        "def build(classes, width=12):\n"
        "    return nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(),\n"
        "        nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.Conv2d(2 * width, classes, 1),\n"
        "        nn.Upsample(scale_factor=2))\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    done = run(tmp_path / "runs", "model={factory: 'my_nets:build', args: {width: 16}}", "prune.step=1")
    assert done.returncode == 0, done.stderr
    assert report(tmp_path / "runs")["pruned"]["macs"] < 0.401 * report(tmp_path / "runs")["dense"]["macs"]


def test_real_images(camvid: Path, tmp_path):
    data = f"data={{name: camvid, root: {camvid}, size: [96, 128], train_images: 12, val_images: 4}}"
    done = run(tmp_path, data, "prune.method=l1")
    assert done.returncode == 0, done.stderr
    assert "bicyclist" in report(tmp_path)["dense"]["iou_per_class"]


def test_a_changed_checkpoint_is_noticed(finished: Path, tmp_path):
    weights = tmp_path / "w.safetensors"
    shutil.copyfile(finished / "quickstart@cpu" / "load" / "weights.safetensors", weights)
    recipe = load_recipe("quickstart", [*SETTINGS, "train=null", f"model.checkpoint={weights}"])

    def loaded() -> tuple[str, float]:
        said = io.StringIO()
        pipeline.dense(recipe, load_target("cpu"), tmp_path, progress.console(file=said))
        return said.getvalue(), read_json(tmp_path / "quickstart@cpu" / "manifest.json")["stages"]["load"]["facts"][
            "miou"
        ]

    assert loaded()[1] == report(finished)["dense"]["miou"] and "skipped" in loaded()[0]
    tensors = load_file(weights)
    save_file({k: v.flip(0) if k.startswith("classifier") else v for k, v in tensors.items()}, weights)
    said, score = loaded()
    assert "skipped" not in said and score != report(finished)["dense"]["miou"]


def test_an_intel_gpu_that_is_not_here_gets_a_bundle_too(finished: Path, tmp_path):
    shutil.copytree(finished / "quickstart@cpu", tmp_path / "quickstart@intel-gpu")
    done = run(tmp_path, target="intel-gpu")
    assert done.returncode == 4 and "OpenVINO finds no GPU here" in done.stderr
    checked = check_bundle(tmp_path / "quickstart@intel-gpu" / "bundle")
    assert checked.returncode == 1 and "finds no GPU here" in checked.stderr


def test_two_processes_train_together(tmp_path):
    """Each process sees its own share of every batch. (`accelerate launch --cpu --num_processes 2` starts only one.)"""
    line = command(tmp_path / "two", "train.batch=2", "finetune.batch=2")
    done = together(line, ranks())
    assert [p.returncode for p in done] == [0, 0], done
    assert report(tmp_path / "two")["training_steps"] == {"load": 8, "prune": 0, "judging": 0, "finetune": 6}
    again = together(line, ranks())
    assert [p.returncode for p in again] == [0, 0] and again[0].stderr.count("skipped") == len(STAGES), again
