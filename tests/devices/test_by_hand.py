"""The two ways to a board give the same report: over ssh, and a bundle copied by hand, run there and its result brought back.

The board is this machine behind a real sshd, with OpenVINO on the CPU as its backend.
"""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from edgeprune import pipeline, progress
from edgeprune.devices import ssh
from edgeprune.recipe import load_recipe
from edgeprune.stages import profile
from edgeprune.target import load_target
from tests.devices.brought import as_if_of
from tests.e2e.running import SETTINGS

SMALL = [*SETTINGS, "deploy.parity_images=5", "deploy.latency_runs=8"]


def go(target: Path, runs: Path, *more: str) -> tuple[int, str]:
    """A run in this process: (exit status, what it said)."""
    said = io.StringIO()
    status = pipeline.run(
        load_recipe("quickstart", [*SMALL, *more]), load_target(str(target)), runs, progress.console(file=said)
    )
    return status, said.getvalue()


@pytest.fixture(scope="module", autouse=True)
def one_head():
    """The head is raced on the device where there is one; here both ways must ship the same graph."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profile, "_heads", lambda run: {"head": "argmax"})
        yield


@pytest.fixture(scope="module")
def targets(server, tmp_path_factory):
    """The board twice: reached over ssh, and not reached at all (a device that this machine has not)."""
    home, content = tmp_path_factory.mktemp("targets"), server[0].model_dump(mode="json")
    for name, change in (("ssh", {}), ("hand", {"host": None, "ssh": [], "device": "GPU"})):
        (home / f"{name}.yaml").write_text(yaml.safe_dump(content | change))
    return home / "ssh.yaml", home / "hand.yaml"


@pytest.fixture(scope="module")
def over_ssh(targets, tmp_path_factory):
    runs = tmp_path_factory.mktemp("ssh")
    status, said = go(targets[0], runs)
    assert status == 0, said
    return runs


@pytest.fixture(scope="module")
def by_hand(targets, server, tmp_path_factory):
    """(runs' folder, result.zip): bundled here, copied there, run there, brought back."""
    target, there = server
    runs = tmp_path_factory.mktemp("hand")
    status, said = go(targets[1], runs)
    assert status == 4 and "bundle.tar.gz" in said, said
    line = ["ssh", *ssh._OPTIONS, *target.ssh, "--", str(target.host)]
    with open(runs / "quickstart@board" / "bundle.tar.gz", "rb") as archive:
        subprocess.run([*line, "cd && tar xz"], stdin=archive, check=True)
    told = f"cd ~/quickstart@board && PYTHON={sys.executable} ./run.sh --device CPU --seconds 0.1"
    ran = subprocess.run([*line, told], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    brought = subprocess.run([*line, "cat ~/quickstart@board/result.zip"], capture_output=True, check=True).stdout
    as_if_of("GPU", brought, runs / "brought.zip")  # the board that was not reached has no GPU either
    (runs / "of_the_cpu.zip").write_bytes(brought)
    assert (there / "quickstart@board" / "result.json").exists()
    return runs, runs / "brought.zip"


def test_both_ways_give_the_same_report(over_ssh, by_hand, cli):
    runs, brought = by_hand
    code, _, err = cli("verify", "--result", str(brought), "--runs-dir", str(runs))
    assert code == 0, err
    r, over_ssh = (json.loads((home / "quickstart@board" / "report.json").read_text()) for home in (runs, over_ssh))
    assert r.keys() == over_ssh.keys()
    for part in ("engine", "dense", "pruned", "speedup", "budget", "layers"):
        assert r[part].keys() == over_ssh[part].keys(), part
    told = ("backend", "precision_asked", "precision_found", "miou", "iou_per_class", "boundary_iou", "pixel_agreement",
            "images", "miou_difference", "miou_difference_ci95", "worst_class", "measured")  # fmt: skip
    assert {k: r["engine"][k] for k in told} == {k: over_ssh["engine"][k] for k in told}
    assert [(g["name"], g["limit"], g["passed"]) for g in r["gates"]] == [
        (g["name"], g["limit"], g["passed"]) for g in over_ssh["gates"]
    ]
    assert r["attribution"] == over_ssh["attribution"]
    assert {row["name"] for row in r["layers"]["rows"]} == {row["name"] for row in over_ssh["layers"]["rows"]}
    both = (r["boundaries"]["boundaries"], over_ssh["boundaries"]["boundaries"])
    assert both[0].keys() == both[1].keys() == {"engine", "image to mask", "paced"}
    assert r["engine"]["latency"]["count"] == over_ssh["engine"]["latency"]["count"] == 8
    assert r["machine"].keys() == over_ssh["machine"].keys() and r["machine"]["cpu"] == over_ssh["machine"]["cpu"]
    assert "brought back" in r["engine"]["device"]
    page = (runs / "quickstart@board" / "report.html").read_text()
    assert "Not measured" not in page and "paced" in page


def test_a_result_of_another_device_is_not_the_targets(by_hand, cli):
    runs, _ = by_hand
    code, _, err = cli("verify", "--result", str(runs / "of_the_cpu.zip"), "--runs-dir", str(runs))
    assert code == 1 and "it ran on CPU, and board means GPU; run the bundle without --device" in err


def test_the_result_stays_with_the_run_until_its_networks_change(by_hand, targets, cli):
    runs, brought = by_hand
    if not (runs / "quickstart@board" / "result.zip").exists():
        cli("verify", "--result", str(brought), "--runs-dir", str(runs))
    status, said = go(targets[1], runs)
    assert status == 0 and said.count("skipped") == 10, said
    pruned = runs / "quickstart@board" / "simplify" / "pruned.onnx"
    pruned.write_bytes(pruned.read_bytes() + b" ")
    code, _, err = cli("verify", "--result", str(brought), "--runs-dir", str(runs))
    assert code == 1 and "does not fit" in err
    code, _, err = cli("verify", "--result", str(brought), "--runs-dir", str(runs / "none"))
    assert code == 2 and "the result belongs to that run" in err


def test_the_fastest_precision_is_found_on_the_board(over_ssh, targets, tmp_path):
    shutil.copytree(over_ssh, tmp_path, dirs_exist_ok=True)
    status, said = go(targets[0], tmp_path, "deploy.precision=fastest")
    assert status == 0 and said.count("skipped") == 4, said
    r = json.loads((tmp_path / "quickstart@board" / "report.json").read_text())
    rows = {c["asked"]: c for c in r["precisions"]["candidates"]}
    assert rows["int8"]["found"] == "int8" and rows["int8"]["share"] > 0
    assert r["engine"]["precision_asked"] == r["precisions"]["chosen"]


def test_the_doctor_asks_the_board(targets, cli):
    code, out, err = cli("doctor", "--target", str(targets[0]))
    assert code == 0 and "openvino" in out and "missing" not in out, out + err
    code, out, _ = cli("doctor", "--target", str(targets[1]))
    assert code == 1 and "OpenVINO finds no GPU here" in out


def test_the_doctor_without_a_board(cli):
    code, out, _ = cli("doctor", "--target", "jetson")
    assert code == 4 and "edgeprune doctor --target jetson --host user@board" in out
    assert "JetPack" in out and "10.3" in out
    code, _, err = cli("doctor", "--target", "jetsn")
    assert code == 2 and "jetson" in err


@pytest.mark.skipif(os.environ.get("EDGEPRUNE_HOST") is None, reason="skipped, no board here (EDGEPRUNE_HOST)")
def test_a_real_board_answers(cli):
    code, _, err = cli("doctor", "--target", "jetson", "--host", os.environ["EDGEPRUNE_HOST"])
    assert code in (0, 1), err
