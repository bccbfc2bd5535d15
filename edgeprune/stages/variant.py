"""A run's folder is named by recipe and target, so two variants of a recipe share it: the second one says so before it replaces anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgeprune.documents import dotted, written
from edgeprune.errors import EdgepruneError
from edgeprune.files import read_json
from edgeprune.recipe import Recipe
from edgeprune.stages.inputs import NO_MATTER

_SAME = {"title", "threads", *NO_MATTER}  # no result hangs on them
_MOST = 4


def another_variant(folder: Path, recipe: Recipe) -> str | None:
    """What the run in `folder` was asked for, where that is something else than `recipe`; None: the same, or nothing is there."""
    held: Any = None
    with suppress(EdgepruneError):  # whatever cannot be read is replaced without loss
        manifest = read_json(folder / "manifest.json")
        if isinstance(manifest, dict) and manifest.get("stages"):
            held = read_json(folder / "recipe.json")
    if not isinstance(held, dict):
        return None
    differing = list(_differing(held, recipe.model_dump(mode="json"), ()))
    if not differing:
        return None
    more = f" and {len(differing) - _MOST} more" if len(differing) > _MOST else ""
    return (
        f"{folder} holds another variant of {recipe.name} ({', '.join(differing[:_MOST])}{more}): stages that differ are done again "
        f"and its report is replaced; --set name=… keeps both"
    )


def _differing(held: Any, asked: Any, key: tuple[Any, ...]) -> Iterator[str]:
    if isinstance(held, dict) and isinstance(asked, dict):
        for name in [*held, *(n for n in asked if n not in held)]:
            if name not in _SAME:
                yield from _differing(held.get(name), asked.get(name), (*key, name))
    elif held != asked:
        yield f"{dotted(key)} {_value(held)} → {_value(asked)}"


def _value(value: Any) -> str:
    return value if isinstance(value, str) and value.isprintable() and len(value) < 40 else written(value)
