"""Scores of methods that train, by each of two processes; one JSON a process."""

from __future__ import annotations

import json
from pathlib import Path

from accelerate import PartialState

from edgeprune.prune.groups import find_groups
from edgeprune.stages import load, scoring
from edgeprune.train.loop import fingerprint
from tests.stages.test_prune import job


def scored(folder: Path, name: str, batch: int) -> dict:
    """Scores and weights after three steps; every pixel is judged, so that each process's mean counts alike."""
    schedule = f"{{steps: 3, batch: {batch}, lr: 0.01, augment: {{scale: [1.0, 1.5]}}}}"
    with PartialState(cpu=True).main_process_first():
        run = job(folder / name, f"prune.method={name}", f"prune.sparsity={schedule}")
    net, p = load.dense(run), run.recipe.prune
    scores = scoring.score(run, net, find_groups(net, load.example(run)), scoring.Spent(), p.args, p.sparsity)
    return {"scores": {n: s.tolist() for n, s in scores.items()}, "weights": fingerprint(net)}


def main(folder: Path, *names: str) -> None:
    team = PartialState(cpu=True)
    found = {name: scored(folder, name, 2) for name in names}
    (folder / f"{team.process_index}.json").write_text(json.dumps({"world": team.num_processes, "found": found}))
    team.wait_for_everyone()
    team.destroy_process_group()
