"""`manifest.json` of a run's folder: what each finished stage was made of, and what it found.

Every record is sealed over all of it, so its facts are as safe from a changed digit as its files are by their hashes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeGuard

from edgeprune.errors import EdgepruneError
from edgeprune.files import SEAL, read_json, seal, sealed, write_json

NAME, SCHEMA, UNSEALED = "manifest.json", 2, 1  # schema 1 had no seals
_KEYS = {"key": str, "recipe": str, "seconds": (int, float), "versions": dict, "facts": dict, "files": dict}


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
    return found if _is_record(found) else None


def _is_record(found: Any) -> TypeGuard[dict[str, Any]]:
    """Is it as it was written, with all that a record has, and are its files the run's own?"""
    return sealed(found) and _is_whole(found)


def _is_whole(found: dict[str, Any]) -> bool:
    if not all(isinstance(found.get(key), kind) for key, kind in _KEYS.items()):
        return False
    paths = [Path(name) for name in found["files"]]
    return not any(p.is_absolute() or ".." in p.parts for p in paths) and all(
        isinstance(digest, str) for digest in found["files"].values()
    )


def earlier(folder: Path, stage: str) -> dict[str, Any] | None:
    """A record as the version without seals wrote it; None where there is none, or it is not whole. Only its files' hashes guard it."""
    found = records(folder).get(stage)
    unsealed = read_json(folder / NAME).get("schema") == UNSEALED if found else False
    if not unsealed or not isinstance(found, dict) or SEAL in found:
        return None
    return found if _is_whole(found) else None


def changed(folder: Path, stage: str) -> str | None:
    """Why the record that stands there is not believed; None where it is, or there is none."""
    found = records(folder).get(stage)
    if found is None or _is_record(found):
        return None
    return f"{folder / NAME}: the record of stage {stage} was changed, or written by an earlier version"


def keep(folder: Path, stage: str, found: dict[str, Any]) -> None:
    """Write a stage's record; the others stay as they are, and so does the schema while one of them has no seal."""
    stages = records(folder) | {stage: seal(found)}
    old = any(isinstance(r, dict) and SEAL not in r for r in stages.values())
    old = old and read_json(folder / NAME).get("schema") == UNSEALED
    write_json(folder / NAME, {"schema": UNSEALED if old else SCHEMA, "stages": stages})
