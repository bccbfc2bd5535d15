"""`edgeprune prune` and `edgeprune deploy`: the way to an engine with a training loop of the user's own in between."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from edgeprune import interrupt, progress
from edgeprune.errors import UsageError
from edgeprune.options import HostOpt, RecipeArg, RunsOpt, SetOpt, TargetOpt
from edgeprune.recipe import Recipe
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
        cut = runs_dir / f"{parsed.name}@{device.name}" / "prune"
        named = f", {parsed.model.factory!r}" if parsed.model.factory else ""
        settings = [word for s in set for word in ("--set", s)] + (["--host", host] if host else [])
        line = ["edgeprune", "deploy", recipe, "--target", target, "--runs-dir", str(runs_dir), *settings, "--weights", "FILE"]  # fmt: skip
        said = (
            f"cut network: edgeprune.load({str(cut)!r}{named}), or into=your own; when it is tuned:\n{shlex.join(line)}"
        )
        progress.console().print(said, markup=False, highlight=False, soft_wrap=True)
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

        What `edgeprune prune` has left in the run's folder is used as it is; nothing is trained or cut.

        edgeprune deploy mine.yaml --weights tuned.safetensors
        """
        if not weights.expanduser().exists():
            raise UsageError(f"--weights: {weights} does not exist")
        told = json.dumps(str(weights.expanduser().resolve()))
        instead = [f"finetune.checkpoint={told}", "finetune.command=null", "finetune.weights=dense"]
        parsed, device = checked(recipe, target, [*set, *instead], host)
        from edgeprune import pipeline

        interrupt.raise_again()
        raise typer.Exit(pipeline.run(parsed, device, runs_dir, since="finetune"))
