"""The command `plan`: what a recipe can cut and which budgets are in reach, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from edgeprune import progress
from edgeprune.boards import HostOpt
from edgeprune.errors import RecipeError
from edgeprune.recipe import Recipe
from edgeprune.recipe.units import amount
from edgeprune.target import Target

Checked = Callable[[str, str, list[str], str | None], tuple[Recipe, Target]]


def add_to(app: typer.Typer, checked: Checked) -> None:
    """Make it a command of the program; `checked` reads a recipe and a target and refuses what does not fit."""

    @app.command()
    def plan(
        recipe: Annotated[str, typer.Argument(help="a shipped recipe's name, or the path of a .yaml file")],
        target: Annotated[
            str, typer.Option("--target", "-t", help="a shipped target's name, or the path of a .yaml file")
        ] = "cpu",
        set: Annotated[list[str], typer.Option("--set", "-s", help="change a key; may stand often")] = [],  # noqa: B006
        host: HostOpt = None,
    ) -> None:
        """Say what can be cut, what the dense engine takes, and which budgets are in reach. Takes seconds.

        Nothing is trained and no run's folder is written. Where the device is at hand, the untrained dense engine is timed on it
        (what else is measured goes into the latency table, where runs find it); else its milliseconds are estimated. Ends with
        status 1 where the recipe's own budget is out of reach.

        edgeprune plan quickstart --target cpu
        edgeprune plan quickstart --set budget.latency_ms=3
        edgeprune plan deeplabv3_sirfp --target jetson --host user@board --set data.root=/data/cityscapes
        """
        show(*checked(recipe, target, set, host))


def show(recipe: Recipe, target: Target) -> None:
    """Print the plan on standard output.

    Raises:
        BudgetError: the recipe's budget is out of reach; after everything else has been told.
    """
    from edgeprune.stages.run import Run

    run = Run(recipe, target, Path("."), progress.console())
    out = progress.console(stderr=False)
    for line in _lines(run):
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    if "beyond" in run.kept:
        raise run.kept["beyond"]


def _lines(run: Any) -> Iterator[str]:
    from edgeprune.errors import BudgetError
    from edgeprune.prune import cost
    from edgeprune.prune.groups import find_groups
    from edgeprune.stages import load, reach
    from edgeprune.stages.fits import check_groups, kept_whole

    recipe, target = run.recipe, run.target
    yield f"{recipe.name}: {recipe.title}; for {target.name} ({target.title})"
    net = load.build(run).eval()
    graph = find_groups(net, load.example(run), recipe.prune.never)
    check_groups(graph, recipe.prune.never)
    count = sum(g.size for g in graph.groups)
    macs, params = (cost.share_within(cost.COSTS[kind](graph), graph.widths()) for kind in ("macs", "params"))
    yield (
        f"can be cut: {count:,} channels in {len(graph.groups)} groups; layers whose widths they set have {macs:.1%} of the MACs and "
        f"{params:.1%} of the parameters"
    )
    yield from kept_whole(graph)
    budget, asked = recipe.budget, None
    for kind in ("macs", "params", "channels", budget.kind if budget.is_latency else "latency_ms"):
        try:
            found = reach.of_budget(run, net, graph, kind)
        except RecipeError as error:  # no device, and no figures to estimate from
            yield f"milliseconds: not known; {error}"
            continue
        yield _row(found)
        if kind == budget.kind:
            asked = found
    if asked is None:
        return
    yield reach.told(run, asked)
    try:
        reach.refuse(run, asked)
    except BudgetError as error:
        run.kept["beyond"] = error


def _row(found: Any) -> str:
    name = {"macs": "MACs", "params": "parameters", "channels": "channels"}.get(found.kind, "latency")
    kind = found.kind
    whole, least = amount(kind, found.dense), amount(kind, found.least)
    if name == "latency":
        source = "untrained dense engine" if found.measured else "estimated (the device is not at hand): dense engine"
        fixed = f", of which {amount(kind, found.fixed)} do not hang on widths" if found.measured else ""
        line = f"latency: {source} {whole}{fixed}; narrowest network {'predicted' if found.measured else 'estimated'} at {least}"
    else:
        line = f"{name}: {whole} dense, {least} at the narrowest"
    line += f" ({found.least / found.dense:.2f}x)"
    return line + (f", {amount(kind, found.bare)} without any block that may vanish" if found.bare is not None else "")
