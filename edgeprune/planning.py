"""The commands `plan` and `profile`: what a device takes for a network, before anything is trained."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from edgeprune import progress
from edgeprune.errors import RecipeError, UsageError
from edgeprune.options import HostOpt, RecipeArg, SetOpt, TargetOpt
from edgeprune.recipe import Recipe
from edgeprune.recipe.units import amount
from edgeprune.target import Target

Checked = Callable[[str, str, list[str], str | None], tuple[Recipe, Target]]


def add_to(app: typer.Typer, checked: Checked) -> None:
    """Make them commands of the program; `checked` reads a recipe and a target and refuses what does not fit."""

    @app.command()
    def plan(
        recipe: RecipeArg,
        target: TargetOpt = "cpu",
        set: SetOpt = [],  # noqa: B006
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

    @app.command()
    def profile(
        target: TargetOpt = "cpu",
        recipe: Annotated[
            str | None, typer.Option("--recipe", "-r", help="measure what this recipe's network needs")
        ] = None,
        set: SetOpt = [],  # noqa: B006
        host: HostOpt = None,
        table: Annotated[
            Path | None, typer.Option(help="the table's file; default: latency.sqlite in the user's cache")
        ] = None,
        show: Annotated[bool, typer.Option("--show", help="write the staircases of the table to a page")] = False,
        out: Annotated[Path, typer.Option(help="the page that --show writes")] = Path("latency-table.html"),
    ) -> None:
        """Measure the operators of a network on the device, into the table that all latency budgets use.

        Runs do this by themselves; here it can be done beforehand. What is in the table is not measured again.

        edgeprune profile --recipe quickstart --target cpu
        edgeprune profile --show
        """
        if table is not None:
            os.environ["EDGEPRUNE_TABLE"] = str(table)
        if recipe is None and not show:
            raise UsageError("profile: give --recipe (whose network to measure), or --show (what has been measured)")
        if recipe is not None:
            _fill(*checked(recipe, target, set, host))
        if show:
            _page(out)


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


def _fill(recipe: Recipe, target: Target) -> None:
    from edgeprune.stages import profile
    from edgeprune.stages.run import Run

    profile.fill(Run(recipe, target, Path("."), progress.console()))


def _page(out: Path) -> None:
    """Write the page of the table's staircases.

    Raises:
        UsageError: the table is empty.
    """
    from edgeprune.deploy import staircases
    from edgeprune.files import write_atomic
    from edgeprune.profile.table import Table

    kept = Table()
    rows = kept.known()
    if not rows:
        raise UsageError(f"profile --show: {kept.path} is empty; measure first: edgeprune profile --recipe quickstart")
    curves = [kept.curve(row) for row in rows]
    write_atomic(out, staircases.page(str(kept.path), rows, curves, kept.engines()))
    said = f"{sum(row['count'] for row in rows)} operators of {len(rows)} signatures: {out}"
    progress.console().print(said, markup=False, soft_wrap=True)
