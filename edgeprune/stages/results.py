"""The files of a stage: what it made, what an earlier one of another key made, and how long it has been at it.

Results of another key are set aside while a stage works, and thrown away when it is done: one that fails at once (data
that is not mounted, a disk that is full) leaves what was there, so that nothing is trained twice.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgeprune.errors import EdgepruneError
from edgeprune.files import read_json, seal, sealed, sha256, write_json, writing
from edgeprune.stages import notes

_ASIDE, _BEGAN = ".aside", ".began"  # in a stage's folder


def of(home: Path) -> list[Path]:
    """The files that a stage has left: not hidden ones, and no checkpoint, which ends with the stage."""
    found = (p for p in sorted(home.rglob("*")) if p.is_file())
    return [
        p for p in found if not any(n.startswith(".") for n in p.relative_to(home).parts) and "checkpoint" not in p.name
    ]


def damaged(folder: Path, files: dict[str, str]) -> str | None:
    """The first of the run's files that is not what its hash says."""
    for name, digest in files.items():
        if not (folder / name).is_file() or sha256(folder / name) != digest:
            return name
    return None


@contextmanager
def set_aside(home: Path, key: str) -> Iterator[None]:
    """Without the results of another key while a stage works; they come back if it fails."""
    for old in of(home):
        if not notes.belong(old, key):
            _move(old, home / _ASIDE / old.relative_to(home))
    try:
        yield
    except BaseException:
        bring_back(home)
        raise
    shutil.rmtree(home / _ASIDE, ignore_errors=True)
    (home / _BEGAN).unlink(missing_ok=True)


def bring_back(home: Path) -> None:
    """Put what a failed (or killed) stage had set aside where it was, but not over anything newer."""
    for kept in sorted((home / _ASIDE).rglob("*")):
        place = home / kept.relative_to(home / _ASIDE)
        if kept.is_file() and not place.exists():
            _move(kept, place)
    shutil.rmtree(home / _ASIDE, ignore_errors=True)


def _move(old: Path, new: Path) -> None:
    with writing(new):
        new.parent.mkdir(parents=True, exist_ok=True)
        old.replace(new)


def spent_before(home: Path, key: str) -> float:
    """Seconds that killed attempts at the very same stage took, up to the last file that each left; starts a new attempt."""
    before, told = 0.0, None
    with suppress(EdgepruneError):
        told = read_json(home / _BEGAN)
    if sealed(told) and told.get("key") == key and all(isinstance(told.get(k), float) for k in ("before", "began")):
        left = [p.stat().st_mtime for p in home.rglob("*") if p.is_file() and p.name != _BEGAN]
        before = told["before"] + max(0.0, max(left, default=0.0) - told["began"])
    write_json(home / _BEGAN, seal({"key": key, "began": time.time(), "before": before}))
    return before
