"""Prune under a MACs budget by measured loss, by each of two processes; the widths, a JSON each."""

from pathlib import Path

from accelerate import PartialState

from edgeprune.files import read_json, write_json
from edgeprune.stages.prune import prune
from tests.stages.test_prune import job


def main(folder: Path) -> None:
    team = PartialState(cpu=True)
    with team.main_process_first():
        run = job(
            folder / "run", "prune.method=l1", "prune.allocate=knapsack", "prune.recovery_steps=2",
            "prune.contest_steps=2", "prune.sensitivity_images=2", "prune.rounds=[{keep: 0.8x}]",
        )  # fmt: skip
    prune(run)
    team.wait_for_everyone()
    write_json(folder / f"{team.process_index}.json", read_json(folder / "run" / "prune" / "widths.json"))
    team.wait_for_everyone()
    team.destroy_process_group()
