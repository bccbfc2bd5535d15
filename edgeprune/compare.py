"""Compare: recipes, or one recipe's methods, under the same budget, data and fine-tuning, over several seeds.

Every entry is a normal run. Runs whose dense network is the same (model, data, schedule, seed) share it; it is trained once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from edgeprune import pipeline
from edgeprune.compatible import check_pair, with_method
from edgeprune.deploy import fair
from edgeprune.errors import EdgepruneError, RecipeError
from edgeprune.files import hash_obj, read_json, write_atomic, write_json
from edgeprune.recipe import Recipe
from edgeprune.target import Target

_SAME = ("task", "model", "data", "train", "budget", "finetune", "deploy")  # what a fair comparison has in common


def entries(recipes: Sequence[Recipe], methods: Sequence[str], target: Target) -> dict[str, Recipe]:
    """Name -> recipe of what is compared: the recipes, each with every one of the methods if there are any.

    Raises:
        RecipeError: one of them is wrong; nothing has begun then.
    """
    found: dict[str, Recipe] = {}
    for recipe in recipes:
        for method in methods or [recipe.prune.method]:
            made = with_method(recipe, method, name=f"{recipe.name}-{method}" if methods else recipe.name)
            check_pair(made, target)
            found[made.name] = made
    if len(tasks := sorted({r.task for r in recipes})) > 1:
        raise RecipeError(f"compare: {' and '.join(tasks)} have no common measure; compare recipes of one task")
    return found


def unlike(recipes: Sequence[Recipe]) -> list[str]:
    """Sections in which the recipes differ, though a fair comparison would have them equal."""
    return [s for s in _SAME if len({hash_obj(r.model_dump(mode="json")[s]) for r in recipes}) > 1]


def compare(
    wanted: dict[str, Recipe],
    target: Target,
    runs_dir: Path,
    *,
    seeds: Sequence[int],
    out: Path,
    console: Console | None = None,
) -> int:
    """Run what has not been run, then print the table and write `<out>.json` and `<out>.md`; gives the exit status.

    Raises:
        EdgepruneError: a dense network cannot be had. A run that fails is told of and left out.
    """
    console = console or Console(stderr=True)
    differing = unlike(list(wanted.values()))
    if differing:
        console.print(
            f"[yellow]the recipes differ in {', '.join(differing)}: this is no comparison of methods alone[/yellow]"
        )
    reports: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    for seed in seeds:
        for name, recipe in wanted.items():
            made = recipe.model_copy(update={"seed": seed, "name": f"{name}-seed{seed}"})
            console.rule(made.name)
            weights = _dense(made, target, runs_dir, console)
            model = made.model.model_copy(update={"checkpoint": str(weights.resolve())})
            made = made.model_copy(update={"train": None, "model": model})
            try:
                pipeline.run(made, target, runs_dir, console)
            except EdgepruneError as error:
                console.print(f"[red]{made.name}: {error}[/red]")
                failed[made.name] = str(error)
                continue
            report = read_json(runs_dir / f"{made.name}@{target.name}" / "report.json")
            reports.append(fair.row(report) | {"entry": name, "seed": seed})
            _write(out, differing, reports, failed)  # there to be read while the rest runs
    rows = _write(out, differing, reports, failed)
    table = Table(title=f"{len(wanted)} entries, {len(seeds)} seeds, {target.name}")
    for number, heading in enumerate(fair.headings(rows)):
        table.add_column(heading, justify="right" if number else "left")
    for r in rows:
        table.add_row(*fair.cells(r))
    console.print(table)
    for name, why in failed.items():
        console.print(f"[red]{name}[/red]: {why}")
    console.print(f"numbers: {out.with_suffix('.json')}   table: {out.with_suffix('.md')}", soft_wrap=True)
    return 0 if rows and not failed else 3


def _write(
    out: Path, differing: list[str], reports: list[dict[str, Any]], failed: dict[str, str]
) -> list[dict[str, Any]]:
    """The numbers and the table so far; gives its rows."""
    rows = fair.summary(reports)
    found = {"schema": 1, "unlike": differing, "runs": reports, "rows": rows, "failed": failed}
    write_json(out.with_suffix(".json"), found)
    write_atomic(out.with_suffix(".md"), fair.markdown(rows, failed))
    return rows


def _dense(recipe: Recipe, target: Target, runs_dir: Path, console: Console) -> Path:
    """The dense network's weights; runs that would train the same one find it trained."""
    if recipe.train is None:
        assert recipe.model.checkpoint is not None
        return Path(recipe.model.checkpoint).expanduser()
    content = recipe.model_dump(mode="json")
    key = hash_obj([content[part] for part in ("seed", "task", "model", "data", "train")])[:8]
    network = recipe.model.network or "network"
    return pipeline.dense(recipe.model_copy(update={"name": f"{network}-dense-{key}"}), target, runs_dir, console)
