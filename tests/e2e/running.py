"""The quickstart with a tiny network as a command, and what it leaves."""

import json
import multiprocessing
import subprocess
import sys
from pathlib import Path

from tests import forks

SETTINGS = [
    "data.size=[64,128]", "data.args={train: 12, val: 5}", "model={factory: 'tests.e2e.tiny:build'}", "train.steps=8", "train.batch=4",
    "train.checkpoint_every=2", "finetune.steps=6", "finetune.batch=4", "finetune.checkpoint_every=2", "prune.batches=2",
    "finetune.recalibrate_batches=2", "deploy.latency_runs=6", "deploy.gates.min_miou=null", "deploy.gates.min_speedup=null",
    "deploy.gates.pruning_drop=null", "deploy.parity_images=3", "prune.step=2", "deploy.head=argmax",
    "deploy.simplify=false",
]  # fmt: skip
OWN = [
    "model={network: streetnet, args: {width: 8, blocks: 1}}",
    "deploy.simplify=true",
]  # the quickstart's own network
STAGES = ["load", "profile", "prune", "finetune", "export", "simplify", "precision", "compile", "verify", "bundle"]


def command(runs: Path, *more: str, recipe: str = "quickstart", target: str = "cpu") -> list[str]:
    settings = [x for s in (*SETTINGS, *more) for x in ("--set", s)]
    return [sys.executable, "-m", "edgeprune", "run", recipe, "--target", target, "--runs-dir", str(runs), *settings]


def run(runs: Path, *more: str, **names: str) -> subprocess.CompletedProcess:
    return called(command(runs, *more, **names))


def called(line: list[str]) -> subprocess.CompletedProcess:
    """`python -m edgeprune …` in a process of its own; see `tests.forks`."""
    return together(line, [{}])[0]


def together(line: list[str], environments: list[dict[str, str]]) -> list[subprocess.CompletedProcess]:
    """The same, one for each environment, at the same time."""
    return [subprocess.CompletedProcess(line, *told) for told in forks.together(_main, (line[3:],), environments)]


def started(line: list[str], told: list[Path]) -> multiprocessing.Process:
    """The same, and not waited for; `told` are the files for what it says on standard output and error."""
    return forks.started(_main, (line[3:],), told, {})


def _main(args: list[str]) -> None:
    sys.argv = ["edgeprune", *args]
    from edgeprune.cli import main

    main()


def report(runs: Path, name: str = "quickstart@cpu") -> dict:
    return json.loads((runs / name / "report.json").read_text())


def check_bundle(folder: Path, *args: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(folder / "check.py"), *args], capture_output=True, text=True)
