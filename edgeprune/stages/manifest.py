"""`manifest.json` of a run's folder: what each finished stage was made of, and what it found.

Every record is sealed over all of it, so its facts are as safe from a changed digit as its files are by their hashes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeprune.errors import EdgepruneError
from edgeprune.files import SEAL, read_json, seal, sealed, write_json

NAME, SCHEMA, UNSEALED = "manifest.json", 2, 1  # schema 1 had no seals


def records(folder: Path) -> dict[str, Any]:
    """Stage -> its record as it stands, changed or not.

    Raises:
        EdgepruneError: the file is no manifest.
    """
    path = folder / NAME
    if not path.exists():
        return {}
    content = read_json(path)
    stages = content.get("stages") if isinstance(content, dict) else None
    if not isinstance(stages, dict):
        raise EdgepruneError(
            f"{path}: holds no stages of a run; delete it and run again: every stage is then done again"
        )
    return stages


def record(folder: Path, stage: str) -> dict[str, Any] | None:
    """{"key", "recipe", "seconds", "versions", "facts", "files", "asked"?} of a finished stage; None where there is none, or not as it
    was written."""
    found = records(folder).get(stage)
    return found if sealed(found) else None


def earlier(folder: Path, stage: str) -> dict[str, Any] | None:
    """A record as the version without seals wrote it; None where there is none, or it is not whole. Only its files' hashes guard it."""
    found = records(folder).get(stage)
    unsealed = read_json(folder / NAME).get("schema") == UNSEALED if found else False
    if not unsealed or not isinstance(found, dict) or SEAL in found:
        return None
    kinds = {"key": str, "recipe": str, "seconds": float | int, "facts": dict, "files": dict}
    whole = all(isinstance(found.get(name), kind) for name, kind in kinds.items())
    return found if whole and all(isinstance(digest, str) for digest in found["files"].values()) else None


def changed(folder: Path, stage: str) -> str | None:
    """Why the record that stands there is not believed; None where it is, or there is none."""
    found = records(folder).get(stage)
    if found is None or sealed(found):
        return None
    return f"{folder / NAME}: the record of stage {stage} was changed, or written by an earlier version"


def keep(folder: Path, stage: str, found: dict[str, Any]) -> None:
    """Write a stage's record; the others stay as they are, and so does the schema while one of them has no seal."""
    stages = records(folder) | {stage: seal(found)}
    old = any(isinstance(r, dict) and SEAL not in r for r in stages.values())
    old = old and read_json(folder / NAME).get("schema") == UNSEALED
    write_json(folder / NAME, {"schema": UNSEALED if old else SCHEMA, "stages": stages})
