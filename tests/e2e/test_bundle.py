"""Bundles for boards that are not here: what is in them, and their own checker."""

import io
import json
import re
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.files import files_below, sha256
from tests.devices.brought import write
from tests.e2e.running import called, check_bundle, report, run

IN_ONNX_RUNTIME = ["--backend", "onnxruntime", "--precision", "f32", "--runs", "6", "--seconds", "0"]


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
    done = check_bundle(bundle, *IN_ONNX_RUNTIME, "--out", str(tmp_path / "r.json"))
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
    done = check_bundle(tmp_path / "b", *IN_ONNX_RUNTIME)
    assert done.returncode == 3 and "FAIL pixel_agreement" in done.stdout


@pytest.fixture(scope="module")
def brought(bundle: Path, tmp_path_factory) -> tuple[Path, dict[str, Any], np.ndarray]:
    """(a run's folder, what a result tells, its answers), as if the bundle had run on a Jetson."""
    home = tmp_path_factory.mktemp("brought")
    ran = check_bundle(bundle, *IN_ONNX_RUNTIME, "--out", str(home / "r.json"))
    assert ran.returncode == 0, ran.stderr
    with zipfile.ZipFile(home / "r.zip") as whole:
        told, answers = json.loads(whole.read("result.json")), np.load(io.BytesIO(whole.read("answers.npy")))
    told |= {"backend": "tensorrt 10.3.0", "precision_asked": "f16", "ran_on": told["ran_on"] | {"device": "GPU"}}
    shutil.copytree(bundle.parents[1], home / "runs")
    return (
        home / "runs" / "quickstart@jetson",
        told | {"precision_found": "f16", "dense_precision_found": "f16"},
        answers,
    )


def verify(folder: Path, result: Path) -> subprocess.CompletedProcess[str]:
    return called(["python", "-m", "edgeprune", "verify", "--result", str(result), "--runs-dir", str(folder.parent)])


def content(folder: Path) -> dict[str, str]:
    return {str(p): sha256(p) for p in files_below(folder) if p.name != ".lock"}


@pytest.mark.parametrize("fault", ["negative times", "another class", "another size", "another image", "no whole zip"])
def test_a_result_that_is_refused_leaves_the_run_as_it_was(brought, tmp_path, fault):
    folder, told, answers = brought
    before, result, said = content(folder), tmp_path / "result.zip", ""
    if fault == "negative times":
        row = told["latency"]
        told = told | {"latency": row | {"times_ms": [-ms for ms in row["times_ms"]]}}
        said = "latency.times_ms[0]: input should be greater than 0"
    elif fault == "another class":
        answers, said = answers | 64, "and there are classes 0 to"
    elif fault == "another size":
        answers, said = answers[:, ::2], "its answers are of shape"
    elif fault == "another image":
        sums = [told["graphs"]["dense"], *told["image_sums"][1:]]
        told, said = told | {"image_sums": sums}, "an image of this run is not in it"
    write(result, told, answers)
    if fault == "no whole zip":
        result.write_bytes(result.read_bytes()[:-30])
        said = "no whole result.zip"
    done = verify(folder, result)
    assert done.returncode == 1 and said in done.stderr.replace("\n", " ") and "Traceback" not in done.stderr, (
        done.stderr
    )
    assert content(folder) == before


def test_a_changed_fact_does_not_reach_the_report_of_a_result(brought, tmp_path):
    folder, told, answers = brought
    shutil.copytree(folder.parent, tmp_path / "runs")
    folder, result = tmp_path / "runs" / folder.name, write(tmp_path / "result.zip", told, answers)
    text = (folder / "manifest.json").read_text()
    miou = re.search(r'"miou": ([\d.]+)', text)
    assert miou
    (folder / "manifest.json").write_text(text.replace(miou[0], '"miou": 0.999', 1))
    done = verify(folder, result)
    assert done.returncode == 1 and "stage load" in done.stderr and "was changed" in done.stderr, done.stderr
    assert not (folder / "result.zip").exists()
    (folder / "manifest.json").write_text(text)
    done = verify(folder, result)
    assert done.returncode in (0, 3) and report(folder.parent, folder.name)["engine"]["latency"]["count"] == 6, (
        done.stderr
    )
    assert (folder / "result.zip").read_bytes() == result.read_bytes()
