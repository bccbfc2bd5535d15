"""Compare: recipes, or one recipe's methods, under the same budget, data and fine-tuning, over several seeds.

Every entry is a normal run. Runs whose dense network is the same (model, data, schedule, seed) share it; it is trained once.
An entry that fails is told of and left out; a comparison that is stopped shows what it has, and goes on when asked again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from edgeprune import pipeline, progress
from edgeprune.compatible import check_pair, with_method
from edgeprune.deploy import fair
from edgeprune.errors import EdgepruneError, RecipeError, in_a_line
from edgeprune.files import hash_obj, read_json, write_atomic, write_json
from edgeprune.recipe import Recipe
from edgeprune.target import Target

_SAME = ("task", "model", "data", "train", "budget", "finetune", "deploy")  # what a fair comparison has in common
_OWN = {"method", "args", "sparsity", "rounds"}  # of `prune`: a method's own


def entries(recipes: Sequence[Recipe], methods: Sequence[str], target: Target) -> dict[str, Recipe]:
    """Name -> recipe of what is compared: the recipes, each with every one of the methods if there are any.

    Raises:
        RecipeError: one of them is wrong; nothing has begun then.
    """
    found: dict[str, Recipe] = {}
    for recipe in recipes:
        for method in dict.fromkeys(methods) or [recipe.prune.method]:
            made = with_method(recipe, method, name=f"{recipe.name}-{method}" if methods else recipe.name)
            check_pair(made, target)
            if made.name in found:
                raise RecipeError(f"compare: two of the recipes are called {recipe.name}; change the key `name` of one")
            found[made.name] = made
    if len(tasks := sorted({r.task for r in recipes})) > 1:
        raise RecipeError(f"compare: {' and '.join(tasks)} have no common measure; compare recipes of one task")
    return found


def unlike(recipes: Sequence[Recipe]) -> list[str]:
    """Keys in which the recipes differ, though a fair comparison would have them equal."""
    whole = [r.model_dump(mode="json") for r in recipes]
    parts = {s: [r[s] for r in whole] for s in _SAME}
    parts |= {f"prune.{k}": [r["prune"][k] for r in whole] for k in whole[0]["prune"] if k not in _OWN}
    return [name for name, values in parts.items() if len({hash_obj(v) for v in values}) > 1]


def own_steps(recipe: Recipe) -> int:
    """Optimiser steps of a recipe's pruning stage.

    Raises:
        RecipeError: a schedule's length is in epochs.
    """
    prune = recipe.prune
    parts = [prune.sparsity, *(s for r in prune.rounds for s in (r.sparsity or prune.sparsity, r.finetune))]
    if recipe.finetune is None or recipe.finetune.elsewhere:
        raise RecipeError(f"--equal-steps: {recipe.name} is not fine-tuned by our own training")
    if any(s is not None and s.steps is None for s in [*parts, recipe.finetune]):
        raise RecipeError(f"--equal-steps: {recipe.name} has a schedule in epochs; give prune.* and finetune as steps")
    return sum(s.steps or 0 for s in parts if s is not None)


def with_equal_steps(wanted: dict[str, Recipe]) -> dict[str, Recipe]:
    """The entries, fine-tuned for as much longer as others train before they are cut.

    Raises:
        RecipeError: a schedule's length is in epochs.
    """
    most = max(own_steps(r) for r in wanted.values())
    found = {}
    for name, r in wanted.items():
        assert r.finetune is not None  # `own_steps` has looked
        steps = (r.finetune.steps or 0) + most - own_steps(r)
        found[name] = r.model_copy(update={"finetune": r.finetune.model_copy(update={"steps": steps})})
    return found


@dataclass
class Found:
    """What a comparison has so far, and where it is written."""

    out: Path
    differing: list[str]
    runs: list[dict[str, Any]] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def write(self) -> list[dict[str, Any]]:
        """`<out>.json` and `<out>.md`; gives the table's rows."""
        rows = fair.summary(self.runs)
        content = {"schema": 1, "unlike": self.differing, "runs": self.runs, "rows": rows, "failed": self.failed}
        write_json(_ending(self.out, "json"), content)
        write_atomic(_ending(self.out, "md"), fair.markdown(rows, self.failed, self.differing))
        return rows


def compare(
    wanted: dict[str, Recipe],
    target: Target,
    runs_dir: Path,
    *,
    seeds: Sequence[int],
    out: Path,
    equal_steps: bool = False,
    console: Console | None = None,
) -> int:
    """Run what has not been run, then print the table and write `<out>.json` and `<out>.md`; gives the exit status: 0, or 3
    where an entry failed.

    Args:
        equal_steps: lengthen the fine-tuning of entries that train less before they are cut.

    Raises:
        RecipeError: `equal_steps` of schedules in epochs.
        KeyboardInterrupt: it was stopped; the table of what there is has been printed.
    """
    console = console or progress.console()
    found = Found(out, unlike(list(wanted.values())))
    wanted = with_equal_steps(wanted) if equal_steps else wanted
    if found.differing:
        console.print(fair.told_unlike(found.differing), style="yellow", markup=False)
    try:
        for row in _runs(wanted, target, runs_dir, seeds, found.failed, console):
            found.runs.append(row)
            found.write()  # there to be read while the rest runs
    finally:  # also behind Ctrl-C
        rows = found.write() if found.runs or found.failed else []
        _show(rows, found, f"{len(wanted)} entries, seeds {', '.join(map(str, seeds))}, {target.name}", console)
    return 0 if rows and not found.failed else 3


def _runs(
    wanted: dict[str, Recipe], target: Target, runs_dir: Path, seeds: Sequence[int], failed: dict[str, str],
    console: Console,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """`fair.row` of every run with its entry and seed, in order; those that fail are told of in `failed`."""
    order = [(name, seed) for seed in seeds for name in wanted]
    open_ = [not (runs_dir / f"{name}-seed{seed}@{target.name}" / "report.json").exists() for name, seed in order]
    took: list[float] = []
    broken: dict[str, str] = {}  # dense networks that cannot be had, and why
    for number, (name, seed) in enumerate(order):
        made = wanted[name].model_copy(update={"seed": seed, "name": f"{name}-seed{seed}"})
        ahead = sum(open_[number:])
        left = f", about {sum(took) / len(took) * ahead / 60:.0f} min left" if took and ahead else ""
        console.rule(f"run {number + 1} of {len(order)}: {made.name}{left}")
        try:
            report = _one(made, target, runs_dir, broken, console)
            row = fair.row(report) | {"entry": name, "seed": seed}
        except Exception as error:  # one entry's surprise is no reason to lose the others
            failed[made.name] = in_a_line(error)
        else:
            took.append(sum(s["seconds"] for s in report["stages"]))
            yield row
            continue
        console.print(f"{made.name}: {failed[made.name]}", style="red", markup=False, soft_wrap=True)


def _one(recipe: Recipe, target: Target, runs_dir: Path, broken: dict[str, str], console: Console) -> dict[str, Any]:
    """The report of one run from its dense network on."""
    dense = _dense_name(recipe)
    if dense in broken:
        raise EdgepruneError(broken[dense])
    try:
        weights = _dense(recipe, dense, target, runs_dir, console)
    except EdgepruneError as error:
        broken[dense] = f"its dense network cannot be had: {error}"
        raise EdgepruneError(broken[dense]) from error
    pipeline.run(recipe.from_weights(weights), target, runs_dir, console)
    report: dict[str, Any] = read_json(runs_dir / f"{recipe.name}@{target.name}" / "report.json")
    return report


def _dense_name(recipe: Recipe) -> str:
    """Of the dense network's run; recipes that would train the same one have it in common."""
    content = recipe.model_dump(mode="json")
    key = hash_obj([content[part] for part in ("seed", "task", "model", "data", "train")])[:8]
    return f"{recipe.model.network or 'network'}-dense-{key}"


def _dense(recipe: Recipe, name: str, target: Target, runs_dir: Path, console: Console) -> Path:
    """The dense network's weights; runs that would train the same one find it trained."""
    if recipe.train is None:
        assert recipe.model.checkpoint is not None
        return Path(recipe.model.checkpoint).expanduser()
    return pipeline.dense(recipe.model_copy(update={"name": name}), target, runs_dir, console)


def _show(rows: list[dict[str, Any]], found: Found, title: str, console: Console) -> None:
    """In two tables, so that a terminal of usual width holds them: what the methods give, and what they cost."""
    names = fair.headings(rows)
    for columns in ([*range(fair.GIVES)], [0, *range(fair.GIVES, len(names))]) if rows else ():
        table = Table(title=title if columns[1] == 1 else None, box=SIMPLE, padding=0)
        for c in columns:
            table.add_column(names[c], justify="right" if c else "left", no_wrap=not c)
        for r in rows:
            texts = fair.cells(r)
            table.add_row(*(texts[c] for c in columns))
        console.print(table)
    for told in fair.notes(rows) if rows else ():
        console.print(told, markup=False, highlight=False, soft_wrap=True)
    if found.differing:
        console.print(fair.told_unlike(found.differing), style="yellow", markup=False)
    for name, why in found.failed.items():
        console.print(f"{name} failed: {why}", style="red", markup=False, soft_wrap=True)
    paths = f"numbers: {_ending(found.out, 'json')}   table: {_ending(found.out, 'md')}"
    console.print(paths, markup=False, soft_wrap=True)


def _ending(out: Path, end: str) -> Path:
    """Not `with_suffix`: the name may hold a dot (`cmp-0.5x`)."""
    return out.with_name(f"{out.name}.{end}")
