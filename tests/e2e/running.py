"""The quickstart with a tiny network as a command, and what it leaves."""

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

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

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.e2e.imported"])


def command(runs: Path, *more: str, recipe: str = "quickstart", target: str = "cpu") -> list[str]:
    settings = [x for s in (*SETTINGS, *more) for x in ("--set", s)]
    return [sys.executable, "-m", "edgeprune", "run", recipe, "--target", target, "--runs-dir", str(runs), *settings]


def run(runs: Path, *more: str, **names: str) -> subprocess.CompletedProcess:
    return called(command(runs, *more, **names))


def called(line: list[str]) -> subprocess.CompletedProcess:
    """`python -m edgeprune …` in a process of its own, forked from one that has imported what takes seconds to import."""
    return together(line, [{}])[0]


def together(line: list[str], environments: list[dict[str, str]]) -> list[subprocess.CompletedProcess]:
    """The same, one for each environment, at the same time."""
    with tempfile.TemporaryDirectory() as folder:
        told = [[Path(folder) / f"{name}{n}" for name in ("stdout", "stderr")] for n in range(len(environments))]
        processes = [started(line, t, e) for t, e in zip(told, environments, strict=True)]
        for process in processes:
            process.join(600)
            process.kill()
            process.join()
        return [
            subprocess.CompletedProcess(line, p.exitcode, *(x.read_text() for x in t))
            for p, t in zip(processes, told, strict=True)
        ]


def started(line: list[str], told: list[Path], more: dict[str, str] | None = None) -> multiprocessing.Process:
    """The same, and not waited for; `told` are the files for what it says on standard output and error."""
    process = _FORKS.Process(target=_main, args=(line[3:], told, os.environ | (more or {})))
    process.start()
    return process


def _main(args: list[str], told: list[Path], environment: dict[str, str]) -> None:
    for number, path in zip((1, 2), told, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    sys.stdout, sys.stderr, sys.argv = os.fdopen(1, "w"), os.fdopen(2, "w"), ["edgeprune", *args]
    from edgeprune.cli import main

    main()


def report(runs: Path, name: str = "quickstart@cpu") -> dict:
    return json.loads((runs / name / "report.json").read_text())


def check_bundle(folder: Path, *args: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(folder / "check.py"), *args], capture_output=True, text=True)
