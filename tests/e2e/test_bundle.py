"""Bundles for boards that are not here: what is in them, and their own checker."""

import json
import shutil
from pathlib import Path

import pytest

from tests.e2e.running import check_bundle, report, run


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    runs = tmp_path_factory.mktemp("jetson")
    done = run(runs, target="jetson")
    assert done.returncode == 4, done.stderr
    assert "check.py" in done.stderr
    r = report(runs, "quickstart@jetson")
    assert r["engine"]["measured"] is False and r["engine"]["latency"] is None and r["speedup"]["median"] is None
    assert r["attribution"][-1]["stage"] == "f16", (
        "what is judged is the graph that the board builds of, at its precision"
    )
    return runs / "quickstart@jetson" / "bundle"


def test_the_fastest_precision_of_a_board_that_is_not_here(bundle: Path, tmp_path):
    shutil.copytree(bundle.parents[1], tmp_path / "runs")
    done = run(tmp_path / "runs", "deploy.precision=fastest", target="jetson")
    assert done.returncode == 4 and "f16, the target's own, is taken untried" in done.stderr, done.stderr
    r = report(tmp_path / "runs", "quickstart@jetson")
    assert r["precisions"]["chosen"] == r["engine"]["precision_asked"] == "f16" and not r["precisions"]["candidates"]
    home = tmp_path / "runs" / "quickstart@jetson"
    assert json.loads((home / "bundle" / "about.json").read_text())["precision"] == "f16"
    assert "was taken untried" in (home / "report.html").read_text()


def test_the_bundles_checker_passes_in_onnx_runtime(bundle: Path, tmp_path):
    done = check_bundle(
        bundle, "--backend", "onnxruntime", "--precision", "f32", "--runs", "6", "--out", str(tmp_path / "r.json")
    )
    assert done.returncode == 0, done.stderr
    r = json.loads((tmp_path / "r.json").read_text())
    assert r["pixel_agreement"] > 0.999 and r["images"] == 3 and r["latency"]["count"] == 6
    assert {g["name"] for g in r["gates"]} >= {"miou_drop", "class_drop", "pixel_agreement"}


def test_the_checker_needs_a_whole_bundle_and_its_backend(bundle: Path, tmp_path):
    shutil.copytree(bundle, tmp_path / "b")
    done = check_bundle(tmp_path / "b")
    assert done.returncode == 1 and "tensorrt" in done.stderr and "Traceback" not in done.stderr
    with open(tmp_path / "b" / "pruned.onnx", "ab") as handle:
        handle.write(b"x")
    done = check_bundle(tmp_path / "b", "--backend", "onnxruntime", "--precision", "f32")
    assert done.returncode == 1 and "damaged" in done.stderr
    (tmp_path / "b" / "parity.npz").unlink()
    done = check_bundle(tmp_path / "b", "--backend", "onnxruntime", "--precision", "f32")
    assert done.returncode == 1 and "parity.npz is missing" in done.stderr


def test_the_checker_notices_a_wrong_engine(bundle: Path, tmp_path):
    shutil.copytree(bundle, tmp_path / "b")
    shutil.copyfile(tmp_path / "b" / "dense.onnx", tmp_path / "b" / "pruned.onnx")
    sums = (tmp_path / "b" / "SHA256SUMS").read_text().splitlines()
    dense = next(line.split()[0] for line in sums if line.endswith("dense.onnx"))
    fixed = [f"{dense}  pruned.onnx" if line.endswith("pruned.onnx") else line for line in sums]
    (tmp_path / "b" / "SHA256SUMS").write_text("\n".join(fixed) + "\n")
    done = check_bundle(tmp_path / "b", "--backend", "onnxruntime", "--precision", "f32", "--runs", "5")
    assert done.returncode == 3 and "FAIL pixel_agreement" in done.stdout
