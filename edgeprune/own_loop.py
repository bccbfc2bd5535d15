"""`edgeprune prune` and `edgeprune deploy`: the way to an engine with a training loop of the user's own in between."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from edgeprune import interrupt, progress
from edgeprune.options import HostOpt, RecipeArg, RunsOpt, SetOpt, TargetOpt
from edgeprune.recipe import Finetune, Recipe, check_files
from edgeprune.target import Target

Checked = Callable[..., tuple[Recipe, Target]]


def add_to(app: typer.Typer, checked: Checked) -> None:
    """Add the commands; `checked` reads and checks a recipe and a target."""

    @app.command()
    def prune(
        recipe: RecipeArg,
        target: TargetOpt = "cpu",
        set: SetOpt = [],  # noqa: B006
        host: HostOpt = None,
        runs_dir: RunsOpt = Path("runs"),
    ) -> None:
        """Go as far as the cut: load or train, score, cut, prove. The cut network is yours to train.

        edgeprune prune mine.yaml
        python my_training.py            net = edgeprune.load("runs/mine@cpu/prune", into=MyNet()), and its weights saved
        edgeprune deploy mine.yaml --weights tuned.safetensors
        """
        parsed, device = checked(recipe, target, set, host)
        from edgeprune import pipeline  # torch takes seconds to import

        interrupt.raise_again()
        status = pipeline.run(parsed, device, runs_dir, until="prune")
        home = runs_dir / f"{parsed.name}@{device.name}" / "prune"
        named = f", {parsed.model.factory!r}" if parsed.model.factory else ""
        progress.console().print(
            f"cut network: edgeprune.load({str(home)!r}{named}), or into=your own; then: edgeprune deploy {recipe} --weights FILE",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
        raise typer.Exit(status)

    @app.command()
    def deploy(
        recipe: RecipeArg,
        weights: Annotated[Path, typer.Option(help="weights of the cut network, tuned by you")],
        target: TargetOpt = "cpu",
        set: SetOpt = [],  # noqa: B006
        host: HostOpt = None,
        runs_dir: RunsOpt = Path("runs"),
    ) -> None:
        """Take weights that you have tuned, and go on to the engine: export, compile, verify, report.

        What `edgeprune prune` has left in the run's folder is used as it is.

        edgeprune deploy mine.yaml --weights tuned.safetensors
        """
        parsed, device = checked(recipe, target, set, host)
        parsed = with_weights(parsed, weights)
        check_files(parsed)
        from edgeprune import pipeline

        interrupt.raise_again()
        raise typer.Exit(pipeline.run(parsed, device, runs_dir))


def with_weights(recipe: Recipe, weights: Path) -> Recipe:
    """The recipe with tuned weights instead of its fine-tuning; what pruning goes by stays."""
    told = {"command": None, "checkpoint": str(weights.expanduser().resolve()), "weights": "dense"}
    return recipe.model_copy(update={"finetune": (recipe.finetune or Finetune(checkpoint="")).model_copy(update=told)})
