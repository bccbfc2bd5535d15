"""The recipe: a whole experiment in one YAML file. Unknown keys are refused; values are checked across keys."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from edgeprune import documents
from edgeprune.errors import RecipeError
from edgeprune.recipe.base import Count, Section
from edgeprune.recipe.deploying import TASK_GATES, Deploy, Gates
from edgeprune.recipe.inputs import DRAWN, Data, Evaluate, Model
from edgeprune.recipe.pruning import Budget, Prune, Round
from edgeprune.recipe.training import Augment, Distill, Finetune, Loss, Train
from edgeprune.shipped import shipped

__all__ = [
    "DRAWN", "TASK_GATES", "Augment", "Budget", "Data", "Deploy", "Distill", "Evaluate", "Finetune", "Gates", "Loss", "Model",
    "Prune", "Recipe", "Round", "Train", "check_files", "load_recipe",
]  # fmt: skip


class Recipe(Section):
    """A whole experiment."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] = Field(description="names the run's folder")
    title: str = Field(default="", description="one line for people")
    task: Literal["segmentation", "classification", "detection"] = Field(
        default="segmentation", description="what the network does; data, network, loss and gates must be for it"
    )
    seed: Annotated[int, Field(ge=0)] = Field(default=0, description="of everything random")
    threads: Count | None = Field(default=None, description="PyTorch's threads; null: as many as there are cores")
    model: Model
    data: Data
    train: Train | None = Field(
        default=None, description="training of the dense network; null where there is a checkpoint"
    )
    prune: Prune
    budget: Budget
    finetune: Finetune
    deploy: Deploy = Deploy()

    @model_validator(mode="after")
    def _trained(self) -> Recipe:
        if self.train is None and self.model.checkpoint is None:
            raise ValueError("model.checkpoint and train are both missing: give trained weights or a training schedule")
        if self.model.backbone_checkpoint and (self.model.checkpoint or self.train is None):
            raise ValueError("model.backbone_checkpoint is what train starts from: give train, and no model.checkpoint")
        shares = [r.share for r in self.prune.rounds]
        if shares != sorted(shares, reverse=True):
            raise ValueError(
                f"prune.rounds: each cut keeps less than the one before, not {', '.join(map(str, shares))}"
            )
        if shares and self.budget.is_latency:
            raise ValueError(
                "prune.rounds: their cuts are counted, not measured; use budget.macs, params or channels with them, or cut "
                "once: --set prune.rounds=[]"
            )
        return self

    def from_weights(self, weights: Path) -> Recipe:
        """The recipe without training of the dense network, whose weights are in the file: its own checkpoint, or what it trained."""
        key = self.model.checkpoint_key if self.train is None else None  # a file of ours has no other sets in it
        model = self.model.model_copy(update={"checkpoint": str(weights.resolve()), "checkpoint_key": key})
        return self.model_copy(update={"train": None, "model": model})


def load_recipe(name: str, settings: list[str] | None = None) -> Recipe:
    """The recipe of that shipped name or path, with `a.b=value` settings applied.

    Raises:
        RecipeError: one line with file, line, key and what would be right.
    """
    path = documents.find(name, shipped("recipes"), "recipe")
    content, lines = documents.read(path)
    set_keys = documents.override(content, settings or [])
    set_budgets = {key[1] for key in set_keys if key[0] == "budget" and len(key) == 2}
    if set_budgets:  # exactly one budget counts, so one that is set replaces the file's
        content["budget"] = {k: v for k, v in content["budget"].items() if k in set_budgets}

    told = [s if len(s) <= 40 else s.partition("=")[0] for key, s in set_keys.items() if _in_title(key)]
    if told and content.get("title"):
        content["title"] = f"{content['title']}; changed: {', '.join(told)}"

    def where(key: documents.Key) -> str:
        for end in range(len(key), 0, -1):
            setting = next((s for k, s in set_keys.items() if k[:end] == key[:end] and len(k) >= len(key)), None)
            if setting and (key[:end] not in lines or key[:end] in set_keys):
                return f"--set {setting}"
            if key[:end] in set_keys:
                return f"--set {set_keys[key[:end]]}"
            if key[:end] in lines:
                return f"{path}:{lines[key[:end]]}"
        return str(path)

    return documents.validated(Recipe, content, where)


def _in_title(key: documents.Key) -> bool:
    """Is it of what a title tells: network, data, method, budget?"""
    told = {("model", "network"), ("model", "factory"), ("model", "args"), ("data", "name"), ("prune", "method")}
    return key[0] == "budget" or key in {("data",), ("model",)} or key[:2] in told


def check_files(recipe: Recipe) -> None:
    """Refuse a recipe whose files, or whose network's module, are not there, before anything long begins.

    Raises:
        RecipeError: names the key and the path.
    """
    for key, path in (
        ("data.root", recipe.data.root),
        ("model.checkpoint", recipe.model.checkpoint),
        ("model.backbone_checkpoint", recipe.model.backbone_checkpoint),
    ):
        if path is not None and not Path(path).expanduser().exists():
            raise RecipeError(f"{key}: {path} does not exist")
    if factory := recipe.model.factory:
        module, _, function = factory.partition(":")
        top = module.partition(".")[0]
        if not (top and function):
            raise RecipeError(f"model.factory: {factory!r}: write package.module:function")
        beside = [Path(f"{top}.py"), Path(top)]  # an installed command does not look in the working directory by itself
        if not any(p.exists() for p in beside) and not find_spec(top):
            raise RecipeError(
                f"model.factory: {factory!r}: there is no module {top!r}; write package.module:function, of a module that is installed or "
                "lies in the working directory"
            )
    root = recipe.data.root and Path(recipe.data.root).expanduser()
    if root and root.is_dir() and not any(root.iterdir()):
        raise RecipeError(f"data.root: {recipe.data.root} is empty; is the disk mounted?")
