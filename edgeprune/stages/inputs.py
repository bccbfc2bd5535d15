"""What a run hangs on besides its recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeprune import models
from edgeprune.files import hash_tree, sha256
from edgeprune.models import code
from edgeprune.recipe import Recipe


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
