"""The files that a recipe names: are they there? And what to do where the data is not."""

from __future__ import annotations

import os
import shlex
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.checkpoint_file import checkpoint_format
from edgeprune.errors import RecipeError
from edgeprune.recipe.inputs import DRAWN

if TYPE_CHECKING:
    from edgeprune.recipe import Recipe

_DRAWN_FOR = {  # task -> data set that is drawn, and a size for it
    "segmentation": ("streets", "[128,256]"),
    "classification": ("objects", "[64,64]"),
    "detection": ("street_boxes", "[128,256]"),
}
_SHORT = 200  # steps of a trial


def check_files(recipe: Recipe, tuned: bool = True) -> None:
    """Refuse a recipe whose files, commands, or network's module, are not there, before anything long begins.

    Args:
        tuned: fine-tuned weights are still to be read.

    Raises:
        RecipeError: names the key and the path.
        CheckpointError: a checkpoint's first bytes are not those of one.
    """
    root = recipe.data.root
    if root is not None and recipe.data.name not in DRAWN:
        folder = os.path.expanduser(root)
        if not os.path.exists(folder):
            raise RecipeError(f"data.root: {root} does not exist; {_what_to_do(recipe)}")
        try:
            empty = os.path.isdir(folder) and not any(Path(folder).iterdir())
        except OSError as error:
            raise RecipeError(f"data.root: {root} cannot be read ({error.strerror})") from error
        if empty:
            raise RecipeError(f"data.root: {root} is empty; is the disk mounted?")
    for key, path in (
        ("model.checkpoint", recipe.model.checkpoint), ("model.backbone_checkpoint", recipe.model.backbone_checkpoint),
        ("finetune.checkpoint", recipe.finetune.checkpoint if recipe.finetune and tuned else None),
    ):  # fmt: skip
        if path is not None and not os.path.exists(os.path.expanduser(path)):
            raise RecipeError(f"{key}: {path} does not exist")
        if path is not None:
            checkpoint_format(Path(os.path.expanduser(path)))
    if recipe.model.factory:
        _check_factory(recipe.model.factory)
    for key, schedule in (("train", recipe.train), ("finetune", recipe.finetune)):
        if schedule is not None and schedule.command:
            _check_command(f"{key}.command", shlex.split(schedule.command))


def _check_command(key: str, words: list[str]) -> None:
    if shell := [w for w in words if w in ("&&", "||", "|", ";", ">", "<", "&")] or [
        w for w in words[:1] if w == "cd" or "=" in w
    ]:
        raise RecipeError(f"{key}: {shell[0]} is for a shell, and none is started; write bash -c '…', or name a script")
    if shutil.which(words[0]) is None:
        raise RecipeError(f"{key}: there is no program {words[0]}; write its path, or install it")


def _what_to_do(recipe: Recipe) -> str:
    name, setting = recipe.data.name, f"data.root=/path/to/{recipe.data.name}"
    return (
        f'give the folder of {name}: --set {setting} (make: set="{setting}"); to try the recipe without it, on drawn '
        f'{_DRAWN_FOR[recipe.task][0]}: make recipe={recipe.name} set="{" ".join(drawn_instead(recipe))}" (edgeprune: each '
        "with --set); `make` alone, or edgeprune run quickstart, needs no data"
    )


def drawn_instead(recipe: Recipe) -> list[str]:
    """Settings by which a recipe runs on drawn pictures, briefly: none holds a space, as `make` wants it."""
    name, size = _DRAWN_FOR[recipe.task]
    data = recipe.data
    found = [f"data.name={name}", "data.root=null", f"data.size={size}"]
    found += ["data.args={}"] if data.args else []
    found += [f"data.{key}=null" for key in ("evaluate", "train_short_side") if getattr(data, key) is not None]
    for place, schedule in (
        ("train", recipe.train), ("prune.sparsity", recipe.prune.sparsity), ("finetune", recipe.finetune),
    ):  # fmt: skip
        if schedule is not None:
            found += [f"{place}.steps={_SHORT}"]
            found += [f"{place}.augment.crop=null"] if schedule.augment.crop is not None else []
    return [*found, "prune.rounds=[]"] if recipe.prune.rounds else found


def _check_factory(factory: str) -> None:
    module, _, function = factory.partition(":")
    top = module.partition(".")[0]
    if not (top and function):
        raise RecipeError(f"model.factory: {factory!r}: write package.module:function")
    beside = [f"{top}.py", top]  # an installed command does not look in the working directory by itself
    if not any(os.path.exists(p) for p in beside) and not _installed(top):
        raise RecipeError(
            f"model.factory: {factory!r}: there is no module {top!r}; write package.module:function, of a module that is installed or "
            "lies in the working directory"
        )


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # a module that is half there, or a name that none can have
        return False
