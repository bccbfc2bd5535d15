"""The command line: parse, call, print. Exit status: 0 done, 1 error, 2 bad usage, 3 a gate failed, 4 no device."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

import edgeprune
from edgeprune.errors import EdgepruneError
from edgeprune.recipe import Recipe, check_files, load_recipe
from edgeprune.shipped import shipped
from edgeprune.target import Target, load_target

app = typer.Typer(
    help="From a trained segmentation network and a device to a pruned, compiled and verified engine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
RecipeArg = Annotated[str, typer.Argument(help="a shipped recipe's name, or the path of a .yaml file")]
TargetOpt = Annotated[str, typer.Option("--target", "-t", help="a shipped target's name, or the path of a .yaml file")]
SetOpt = Annotated[list[str], typer.Option("--set", "-s", help="change a key: --set budget.macs=0.3x; may stand often")]


@app.command()
def run(
    recipe: RecipeArg,
    target: TargetOpt = "cpu",
    set: SetOpt = [],  # noqa: B006
    runs_dir: Annotated[Path, typer.Option(help="where the runs' folders lie")] = Path("runs"),
) -> None:
    """Go all the way: load or train, prune, fine-tune, export, compile, verify, report.

    A run that was killed goes on when the same command is given again.

    edgeprune run quickstart --target cpu
    edgeprune run deeplabv3_sirfp --target jetson --set data.root=/data/cityscapes
    """
    parsed, device = _checked(recipe, target, set)
    from edgeprune import pipeline  # torch takes seconds to import

    raise typer.Exit(pipeline.run(parsed, device, runs_dir))


@app.command()
def check(recipe: RecipeArg, target: TargetOpt = "cpu", set: SetOpt = []) -> None:  # noqa: B006
    """Check a recipe against a target without running anything, and print it with all defaults."""
    import yaml

    parsed, device = _checked(recipe, target, set)
    print(yaml.safe_dump(parsed.model_dump(mode="json"), sort_keys=False, allow_unicode=True), end="")
    Console(stderr=True).print(f"{parsed.name} is right for {device.name} ({device.title})")


@app.command()
def recipes() -> None:
    """List the shipped recipes."""
    table = Table("recipe", "what it does")
    for path in sorted(shipped("recipes").glob("*.yaml")):
        import yaml

        table.add_row(path.stem, yaml.safe_load(path.read_text(encoding="utf-8"))["title"])
    Console().print(table)


@app.command()
def targets() -> None:
    """List the shipped targets."""
    table = Table("target", "what it is", "backend", "precision", "channel step")
    for path in sorted(shipped("deploy/targets").glob("*.yaml")):
        t = load_target(path.stem)
        table.add_row(t.name, t.title, t.backend, t.precision, str(t.channel_step))
    Console().print(table)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="print the version")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="show the trace of an error")] = False,
) -> None:
    if version:
        print(f"edgeprune {edgeprune.__version__}")
        raise typer.Exit


def _checked(recipe: str, target: str, settings: list[str]) -> tuple[Recipe, Target]:
    from edgeprune.compatible import check_pair

    parsed, device = load_recipe(recipe, settings), load_target(target)
    check_files(parsed)
    check_pair(parsed, device)
    return parsed, device


def one_line(error: Exception) -> str:
    """The message; of one that a loading process raised, the line below its trace."""
    last = str(error).strip().splitlines()[-1]
    return last.removeprefix(f"{type(error).__module__}.{type(error).__name__}: ")


def main() -> None:
    """The console script: errors of ours are one line each."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        app()
    except EdgepruneError as error:
        if debug:
            raise
        quiet = os.environ.get("RANK", "0") != "0"  # of several processes the first one speaks
        Console(stderr=True, quiet=quiet).print(
            f"error: {one_line(error)}", style="red", markup=False, soft_wrap=True, highlight=False
        )
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        line = (str(error).strip().splitlines() or [""])[0][:300]
        if os.environ.get("RANK", "0") == "0":
            print(
                f"error: unexpected {type(error).__name__}: {line} (--debug before the command shows the trace)",
                file=sys.stderr,
            )
        sys.exit(1)
