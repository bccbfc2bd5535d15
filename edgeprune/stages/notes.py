"""Notes that a stage keeps of its dear steps, so that a killed one goes on from the last of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeprune.errors import EdgepruneError
from edgeprune.files import hash_obj, read_json
from edgeprune.prune.cutter import Cutter
from edgeprune.stages.run import Run
from edgeprune.train.loop import fingerprint


def key_of(run: Run, cutter: Cutter, more: object) -> str:
    """What notes hang on: the network's weights, its channels' scores, all that the stage hangs on, and `more`."""
    return hash_obj([fingerprint(cutter.net), run.key, {n: s.tolist() for n, s in cutter.scores.items()}, more])


def told(path: Path, key: str) -> dict[str, Any]:
    """The notes in a file if they carry `key`; {} where they are of something else, damaged or not there."""
    try:
        content = read_json(path)
    except EdgepruneError:
        return {}
    return content if isinstance(content, dict) and content.get("key") == key else {}
