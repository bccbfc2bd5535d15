"""Notes that a stage keeps of its dear steps, so that a killed one goes on from the last of them.

They lie beside the stage's results as JSON with a `key`, whose first word is the stage's own key: by that the pipeline knows
which files a killed stage may still need.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeprune.errors import EdgepruneError
from edgeprune.files import hash_obj, read_json, seal, sealed, write_json
from edgeprune.prune.cutter import Cutter
from edgeprune.stages.run import Run
from edgeprune.train.loop import fingerprint


def home(run: Run) -> Path:
    """Where they lie: each of `prune.rounds` has its own."""
    return run.folder / "prune" / (f"round{run.kept['round']}" if "round" in run.kept else "")


def key_of(run: Run, cutter: Cutter, more: object) -> str:
    """What notes hang on: the network's weights, its channels' scores, all that the stage hangs on, and `more`."""
    of = hash_obj([fingerprint(cutter.net), {n: s.tolist() for n, s in cutter.scores.items()}, more])
    return f"{run.key} {of}"


def belong(path: Path, stage_key: str) -> bool:
    """Is the file notes of the very same stage?"""
    if path.suffix != ".json":
        return False
    try:
        content = read_json(path)
    except EdgepruneError:
        return False
    key = content.get("key") if isinstance(content, dict) else None
    return isinstance(key, str) and key.split(" ")[0] == stage_key


def keep(path: Path, content: dict[str, Any]) -> None:
    """Write notes, sealed: a changed digit in them would be taken for a measurement."""
    write_json(path, seal(content))


def told(path: Path, key: str) -> dict[str, Any]:
    """The notes in a file if they carry `key`; {} where they are of something else, damaged, changed or not there."""
    try:
        content = read_json(path)
    except EdgepruneError:
        return {}
    return content if sealed(content) and content.get("key") == key else {}
