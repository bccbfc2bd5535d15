"""What a run and its stages hang on: the keys of recipe and target that change a result, and what lies outside both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import edgeprune
from edgeprune import models
from edgeprune.devices import device_of
from edgeprune.files import hash_tree, sha256
from edgeprune.models import code
from edgeprune.recipe import Recipe
from edgeprune.target import Target

_WAY_THERE = {
    "host",
    "ssh",
    "python",
    "build_seconds",
    "run_seconds",
    "cool_below_c",
}  # of a target: not what the device is
NO_MATTER = {"workers", "checkpoint_every", "val_every"}  # of a recipe: how it is run, and how closely watched


def inputs(recipe: Recipe) -> list[Any]:
    """Hashes of the checkpoint's content, the data's files, the code of the user's network."""
    model, found = recipe.model, []
    for path in (model.checkpoint, model.backbone_checkpoint):
        if path:
            found.append(sha256(Path(path).expanduser()))
    if recipe.data.root:
        found.append(hash_tree(Path(recipe.data.root).expanduser()))
    if model.factory:
        models.on_path()
        found.append([sha256(p) for p in code.files(model.factory.partition(":")[0])])
    return found


def outside(recipe: Recipe, target: Target) -> list[Any]:
    """What a run hangs on besides its recipe: the program, the target, the device as it is now (None where it is out of reach) and
    its backend's version, the checkpoint, the data, the network's code."""
    on = device_of(target)
    asked = [on.version(), on.identity()] if on.why_not() is None else None
    return [edgeprune.__version__, of_target(target), asked, inputs(recipe)]


def of_target(target: Target) -> dict[str, Any]:
    """What a target says of the device, without the way there."""
    return target.model_dump(mode="json", exclude=_WAY_THERE)


def plain(part: Any) -> Any:
    """As JSON, without the keys that no result hangs on."""
    if hasattr(part, "model_dump"):
        part = part.model_dump(mode="json")
    if isinstance(part, list):
        return [plain(p) for p in part]
    return {k: plain(v) for k, v in part.items() if k not in NO_MATTER} if isinstance(part, dict) else part


def known_then(parts: dict[str, Any], written: Any) -> dict[str, Any]:
    """The parts without the keys that recipes did not have when a run's `recipe.json` was `written`.

    Args:
        parts: dotted key of the recipe -> its plain content.
    """

    def known(value: Any, then: Any) -> Any:
        if not isinstance(value, dict) or not isinstance(then, dict):
            return value
        return {k: known(v, then[k]) for k, v in value.items() if k in then}

    kept: dict[str, Any] = {}
    for name, part in parts.items():
        then = written
        for key in name.split("."):
            then = then.get(key) if isinstance(then, dict) else None
        kept[name] = known(part, then)
    return kept
