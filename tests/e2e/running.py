"""A small quickstart as a command, and what it leaves."""

import json
import subprocess
import sys
from pathlib import Path

SETTINGS = [
    "data.size=[64,128]", "data.args={train: 12, val: 5}", "model.args={width: 8, blocks: 1}", "train.steps=8", "train.batch=4",
    "train.checkpoint_every=2", "finetune.steps=6", "finetune.batch=4", "finetune.checkpoint_every=2", "prune.batches=2",
    "finetune.recalibrate_batches=2", "deploy.latency_runs=6", "deploy.gates.min_miou=null", "deploy.gates.min_speedup=null",
    "deploy.gates.pruning_drop=null", "deploy.parity_images=3", "prune.step=2",
]  # fmt: skip


STAGES = ["load", "profile", "prune", "finetune", "export", "simplify", "precision", "compile", "verify", "bundle"]


def command(runs: Path, *more: str, recipe: str = "quickstart", target: str = "cpu") -> list[str]:
    settings = [x for s in (*SETTINGS, *more) for x in ("--set", s)]
    return [sys.executable, "-m", "edgeprune", "run", recipe, "--target", target, "--runs-dir", str(runs), *settings]


def run(runs: Path, *more: str, **names: str) -> subprocess.CompletedProcess:
    return subprocess.run(command(runs, *more, **names), capture_output=True, text=True)


def report(runs: Path, name: str = "quickstart@cpu") -> dict:
    return json.loads((runs / name / "report.json").read_text())


def check_bundle(folder: Path, *args: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(folder / "check.py"), *args], capture_output=True, text=True)
