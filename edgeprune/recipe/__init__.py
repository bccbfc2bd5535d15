"""The recipe: a whole experiment in one YAML file. Unknown keys are refused; values are checked across keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from edgeprune import documents
from edgeprune.recipe.base import Name, Section, Seed
from edgeprune.recipe.deploying import TASK_GATES, Deploy, Gates
from edgeprune.recipe.files import check_files, drawn_instead
from edgeprune.recipe.inputs import DRAWN, Data, Evaluate, Model
from edgeprune.recipe.pruning import Budget, Prune, Round
from edgeprune.recipe.training import Augment, Dense, Distill, Finetune, Loss, Train
from edgeprune.shipped import shipped

__all__ = [
    "DRAWN", "TASK_GATES", "Augment", "Budget", "Data", "Dense", "Deploy", "Distill", "Evaluate", "Finetune", "Gates", "Loss", "Model",
    "Prune", "Recipe", "Round", "Train", "check_files", "drawn_instead", "load_recipe",
]  # fmt: skip


_OPTIONS = ("target", "host", "runs_dir", "methods", "budgets", "seeds", "storage", "out", "debug")  # of commands


class Recipe(Section):
    """A whole experiment."""

    name: Name = Field(description="names the run's folder")
    title: str = Field(default="", description="one line for people")
    task: Literal["segmentation", "classification", "detection"] = Field(
        default="segmentation", description="what the network does; data, network, loss and gates must be for it"
    )
    seed: Seed = Field(default=0, description="of everything random")
    threads: Annotated[int, Field(gt=0, le=1024)] | None = Field(
        default=None, description="PyTorch's threads; null: as many as there are cores"
    )
    model: Model
    data: Data
    train: Dense | None = Field(
        default=None, description="training of the dense network; null where there is a checkpoint"
    )
    prune: Prune
    budget: Budget
    finetune: Finetune | None = Field(description="training of the cut network; null: none")
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

    @property
    def calibration(self) -> Train:
        """How the batches are drawn, and what their loss is, that judge channels before anything is fine-tuned."""
        return self.finetune or Finetune(checkpoint="none")

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
    document = documents.read(documents.find(name, shipped("recipes"), "recipe"))
    documents.override(document, settings or [])
    content, chosen = document.content, document.settings
    budgets = {key[1] for key in chosen if key[0] == "budget" and len(key) == 2}
    if budgets and isinstance(content["budget"], dict):  # exactly one counts, so one that is set replaces the file's
        content["budget"] = {k: v for k, v in content["budget"].items() if k in budgets}
    told = [s.removeprefix("--set ") for key, s in chosen.items() if _in_title(key)]
    if told and isinstance(content.get("title"), str):
        told = [s if len(s) <= 40 else s.partition("=")[0] for s in told]
        content["title"] = f"{content['title']}; changed: {', '.join(told)}"
    return documents.validated(Recipe, document, _OPTIONS)


def _in_title(key: documents.Key) -> bool:
    """Is it of what a title tells: network, data, method, budget?"""
    told = {("model", "network"), ("model", "factory"), ("model", "args"), ("data", "name"), ("prune", "method")}
    return key[0] == "budget" or key in {("data",), ("model",)} or key[:2] in told
