"""Engines for a GPU that is not here: the whole run, exit status 4, and a bundle that holds them."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeprune.runtime import cuda, tensorrt_rtx
from edgeprune.runtime.onnxruntime import OnnxRuntimeEngine
from tests.e2e.running import OWN, report, run

pytestmark = [
    pytest.mark.skipif(not tensorrt_rtx.installed(), reason=f"skipped, {tensorrt_rtx.INSTALL}"),
    pytest.mark.skipif(cuda.missing() is None, reason="skipped, there is a GPU here"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    runs = tmp_path_factory.mktemp("ahead")
    return runs, run(runs, *OWN, target="rtx4090")


def test_real_engines_are_built_and_the_exit_status_says_that_nothing_was_measured(finished):
    runs, done = finished
    assert done.returncode == 4, done.stderr
    r = report(runs, "quickstart@rtx4090")
    engine = r["engine"]
    assert engine["precision_asked"] == engine["precision_found"] == "f16" and engine["device"] == "SM89"
    assert engine["convolutions"] == {"f16": 22} and engine["backend"] == tensorrt_rtx.version()
    assert not engine["measured"] and engine["latency"] is None and r["speedup"]["median"] is None
    assert [row["stage"] for row in r["attribution"]] == ["dense", "pruned", "onnx", "simplified", "f16"]
    assert r["gates"] and all(gate["passed"] for gate in r["gates"])


def test_the_bundle_holds_engines_and_the_graphs_they_were_built_of(finished):
    home = finished[0] / "quickstart@rtx4090" / "bundle"
    sums = dict(reversed(line.split("  ")) for line in (home / "SHA256SUMS").read_text().splitlines())
    for role in ("dense", "pruned"):
        for name in (f"{role}.f16.rtx", f"{role}.f16.onnx", f"{role}.onnx"):
            assert sums[name] == hashlib.sha256((home / name).read_bytes()).hexdigest()
        assert onnx.TensorProto.FLOAT16 in {w.data_type for w in onnx.load(home / f"{role}.f16.onnx").graph.initializer}
    about = json.loads((home / "about.json").read_text())
    assert about["engines"]["pruned"]["path"] == "pruned.f16.rtx"
    assert json.loads((home.parent / "simplify" / "pruned.f16.json").read_text())["f32_nodes"] == []
    with np.load(home / "parity.npz") as kept:
        masks = OnnxRuntimeEngine(home / "pruned.f16.onnx").predict(kept["images"])
        assert (masks == kept["pruned_answers"]).mean() > 0.99


def test_int8_is_built_too(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "runs")
    done = run(tmp_path / "runs", *OWN, "deploy.precision=int8", "deploy.gates.pixel_agreement=null", target="rtx4090")
    assert done.returncode in (3, 4), done.stderr  # an untrained network need not survive INT8
    r = report(tmp_path / "runs", "quickstart@rtx4090")
    kept = json.loads((tmp_path / "runs/quickstart@rtx4090/simplify/pruned.int8.json").read_text())["f32_nodes"]
    # an untrained network's logits may need the last one
    last = sum("conv" in name.lower() and "Linear" not in name for name in kept)
    assert r["engine"]["convolutions"] == {"int8": 22 - last, **({"f32": last} if last else {})} and last <= 1
    assert r["engine"]["precision_found"] == "int8"
