"""The command line: parse, call, print. Exit status: 0 done, 1 error, 2 bad usage, 3 a gate failed, 4 no device."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

import edgeprune
from edgeprune import boards, datasets, interrupt, own_loop, planning, progress
from edgeprune.documents import shown
from edgeprune.errors import EdgepruneError, UsageError, first_line
from edgeprune.options import HostOpt, RecipeArg, RunsOpt, SetOpt, TargetOpt
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


@app.command()
def run(
    recipe: RecipeArg,
    target: TargetOpt = "cpu",
    set: SetOpt = [],  # noqa: B006
    host: HostOpt = None,
    runs_dir: RunsOpt = Path("runs"),
) -> None:
    """Go all the way: load or train, prune, fine-tune, export, compile, verify, report.

    A run that was killed goes on when the same command is given again.

    edgeprune run quickstart --target cpu
    edgeprune run quickstart --target cpu --set budget.latency=0.5x
    edgeprune run deeplabv3_sirfp --target jetson --host user@board --set budget.latency_ms=12 --set prune.rounds=[]
    """
    parsed, device = _checked(recipe, target, set, host)
    from edgeprune import pipeline  # torch takes seconds to import

    interrupt.raise_again()
    raise typer.Exit(pipeline.run(parsed, device, runs_dir))


@app.command()
def search(
    recipe: RecipeArg,
    target: TargetOpt = "cpu",
    budgets: Annotated[
        str, typer.Option(help="comma-separated; 0.5x is a share of the dense engine's latency, macs=0.5x of its MACs")
    ] = "0.7x,0.5x,0.3x",
    methods: Annotated[str, typer.Option(help="comma-separated criteria; default: the recipe's own")] = "",
    set: SetOpt = [],  # noqa: B006
    host: HostOpt = None,
    storage: Annotated[
        str | None,
        typer.Option(help="a journal file on a shared disk, or a database URL, to share one search between machines"),
    ] = None,
    runs_dir: RunsOpt = Path("runs"),
) -> None:
    """Run a recipe with every method at every budget, and show which points nothing else beats.

    The dense network is trained once. The same command in a second terminal, or on a second machine with the same
    --storage, takes points that nobody has; a search that was killed goes on.

    edgeprune search quickstart --target cpu --budgets 0.3x,0.5x,0.7x --methods sirfp,l1,random
    """
    parsed, device = _checked(recipe, target, set, host)
    if find_spec("optuna") is None:
        raise UsageError("search: Optuna is missing; pip install 'edgeprune[search]'")
    _alone("search")
    from edgeprune import search as searching

    interrupt.raise_again()
    if parsed.finetune and parsed.finetune.checkpoint:
        raise UsageError("search: finetune.checkpoint is of one cut, and these are several; leave it out")
    names = _names(methods) or [parsed.prune.method]
    if not _names(budgets):
        raise UsageError("--budgets: give one or more, such as 0.7x,0.5x or macs=0.5x")
    raise typer.Exit(
        searching.search(parsed, device, runs_dir, budgets=_names(budgets), methods=names, storage=storage)
    )


@app.command()
def compare(
    recipes: Annotated[list[str], typer.Argument(help="shipped recipes' names, or paths of .yaml files")],
    target: TargetOpt = "cpu",
    methods: Annotated[str, typer.Option(help="comma-separated criteria; each recipe is run with every one")] = "",
    seeds: Annotated[str, typer.Option(help="comma-separated seeds, or how many: 3 means 0,1,2")] = "1",
    set: SetOpt = [],  # noqa: B006
    host: HostOpt = None,
    runs_dir: RunsOpt = Path("runs"),
    out: Annotated[Path, typer.Option(help="where the table goes: OUT.json and OUT.md")] = Path("comparison"),
    equal_steps: Annotated[
        bool, typer.Option("--equal-steps", help="fine-tune longer where others train before they are cut")
    ] = False,
) -> None:
    """Run recipes, or one recipe's methods, and print one fair table: mean mIoU (top-1, mAP) and its spread over seeds, the class that
    loses most, parameters, MACs, measured milliseconds, time spent.

    Same budget, data and fine-tuning for all, or the table says in what they differ. Each dense network is trained once a
    seed. A comparison that was stopped shows what it has, and goes on when the same command is given again. Ends with status
    3 where an entry failed.

    edgeprune compare quickstart --methods sirfp,l1,taylor,random --seeds 3 --set budget.latency=0.5x
    edgeprune compare segnet_cap --methods cap,sirfp --set data.root=/data/camvid --set budget.macs=0.5x
    """
    parsed = [_checked(name, target, set, host) for name in recipes]
    numbers = _seeds(seeds)
    _alone("compare")
    from edgeprune import compare as comparing

    interrupt.raise_again()
    if any(r.finetune and r.finetune.checkpoint for r, _ in parsed):
        raise UsageError("compare: finetune.checkpoint is of one cut, and these are several; leave it out")
    wanted = comparing.entries([r for r, _ in parsed], _names(methods), parsed[0][1])
    raise typer.Exit(comparing.compare(wanted, parsed[0][1], runs_dir, seeds=numbers, out=out, equal_steps=equal_steps))


def _alone(command: str) -> None:
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError(
            f"{command}: its runs are one process each; start it without accelerate (edgeprune run trains by several)"
        )


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _seeds(text: str) -> list[int]:
    """ "3" is 0, 1, 2; "0,5" is as it stands."""
    try:
        numbers = [int(part) for part in _names(text)]
    except ValueError:
        numbers = []
    many = len(numbers) == 1 and "," not in text
    if not numbers or min(numbers) < 0 or (many and not 1 <= numbers[0] <= 1000) or max(numbers) >= 2**32:
        raise UsageError(f"--seeds: {shown(text)}; write how many (3, at most 1000) or which (0,1,2)")
    return list(range(numbers[0])) if many else numbers


@app.command()
def check(recipe: RecipeArg, target: TargetOpt = "cpu", set: SetOpt = []) -> None:  # noqa: B006
    """Check a recipe against a target without running anything, and print it with all defaults."""
    from edgeprune import plain_yaml

    parsed, device = _checked(recipe, target, set, trains_here=False)
    print(plain_yaml.write(parsed.model_dump(mode="json")), end="")
    progress.console().print(f"{parsed.name} is right for {device.name} ({device.title})", markup=False)


@app.command()
def recipes() -> None:
    """List the shipped recipes."""
    import yaml

    table = Table("recipe", "network, data, method, budget", box=None, padding=(0, 2, 0, 0))
    network = None
    for path in sorted(shipped("recipes").glob("*.yaml")):
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
        if network not in (None, recipe["model"]["network"]):
            table.add_row()
        network = recipe["model"]["network"]
        table.add_row(path.stem, recipe["title"])
    progress.console(stderr=False).print(table)


@app.command()
def targets() -> None:
    """List the shipped targets."""
    table = Table("target", "what it is", "backend", "precision", "channel step")
    for path in sorted(shipped("deploy/targets").glob("*.yaml")):
        t = load_target(path.stem)
        table.add_row(t.name, t.title, t.backend, t.precision, str(t.channel_step))
    progress.console(stderr=False).print(table)


app.add_typer(datasets.app, name="data")
boards.add_to(app)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="print the version")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="show the trace of an error")] = False,
) -> None:
    if version:
        print(f"edgeprune {edgeprune.__version__}")
        raise typer.Exit


def _checked(
    recipe: str, target: str, settings: list[str], host: str | None = None, trains_here: bool = True
) -> tuple[Recipe, Target]:
    from edgeprune.compatible import check_pair
    from edgeprune.sizes import check_sizes

    parsed, device = load_recipe(recipe, settings), load_target(target, host)
    check_files(parsed)
    check_pair(parsed, device)
    check_sizes(parsed, trains_here=trains_here)
    for line in parsed.data.warnings():
        progress.console().print(f"{parsed.name}: {line}", style="yellow", markup=False)
    return parsed, device


own_loop.add_to(app, _checked)


def _to_measure(recipe: str, target: str, settings: list[str], host: str | None) -> tuple[Recipe, Target]:
    found = _checked(recipe, target, settings, host, trains_here=False)
    interrupt.raise_again()
    return found


planning.add_to(app, _to_measure)


def one_line(error: Exception) -> str:
    """The message; of one that a loading process raised, the line below its trace."""
    last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    last = last.encode("utf-8", "backslashreplace").decode()  # a path that is not UTF-8
    return last.removeprefix(f"{type(error).__module__}.{type(error).__name__}: ")


def main() -> None:
    """The console script: errors of ours are one line each."""
    debug = "--debug" in sys.argv
    plain = {} if sys.stdout.isatty() else {"terminal_width": progress.WIDE}  # help is not wrapped either
    if debug:
        sys.argv.remove("--debug")
    try:
        app(**plain)
    except EdgepruneError as error:
        if debug:
            raise
        quiet = os.environ.get("RANK", "0") != "0"  # of several processes the first one speaks
        progress.console(quiet=quiet).print(
            f"error: {one_line(error)}", style="red", markup=False, soft_wrap=True, highlight=False
        )
        sys.exit(error.exit_status)
    except SystemExit as left:
        if left.code == interrupt.STATUS:  # typer takes the KeyboardInterrupt itself
            print(interrupt.LINE, file=sys.stderr)
        raise
    except Exception as error:
        if debug:
            raise
        line = first_line(error)[:300]
        if os.environ.get("RANK", "0") == "0":
            print(
                f"error: unexpected {type(error).__name__}: {line} (--debug before the command shows the trace)",
                file=sys.stderr,
            )
        sys.exit(1)
    finally:
        _leave()


def _leave() -> None:
    """Several processes part in order; else the one that ends last may abort."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
