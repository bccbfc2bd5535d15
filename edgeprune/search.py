"""Search: the accuracy/latency front of a recipe over methods and budgets; each point is a normal run.

The points wait in an Optuna study, whose journal file (or database) any number of processes and machines may share: each
takes the next point that nobody has, and a process that was killed loses only the point that it was at. The dense network
is trained once and given to all points as their checkpoint.
"""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgeprune import pipeline, progress
from edgeprune.compatible import check_pair, with_method
from edgeprune.deploy import front
from edgeprune.documents import hint, shown, told
from edgeprune.errors import DeviceError, RecipeError, RunLockedError, first_line, in_a_line
from edgeprune.files import SEAL, hash_obj, lock, read_json, seal, sealed, write_atomic, write_json
from edgeprune.recipe import Budget, Recipe
from edgeprune.stages import inputs
from edgeprune.target import Target


def points(recipe: Recipe, target: Target, budgets: Sequence[str], methods: Sequence[str]) -> dict[str, Recipe]:
    """Point's name -> recipe: every method at every budget ("0.5x" is of latency; "macs=0.5x" names the kind).

    Raises:
        RecipeError: one of them is wrong; nothing has begun then.
    """
    found = {}
    for method in methods:
        for budget in budgets:
            name = f"{recipe.name}-{method}-{budget.replace('=', '-')}"
            made = with_method(recipe.model_copy(update={"budget": _budget(budget)}), method, name)
            check_pair(made, target)
            found[made.name] = made
    return found


def _budget(text: str) -> Budget:
    """ "0.5x" or "kind=amount".

    Raises:
        RecipeError: it is neither.
    """
    kind, _, amount = text.rpartition("=")
    kind = kind or "latency"
    if kind not in Budget.model_fields:
        raise RecipeError(f"--budgets: {kind!r} is no kind of budget; {hint(kind, list(Budget.model_fields))}")
    try:
        content: dict[str, Any] = {kind: amount if amount.endswith("x") else float(amount)}
        return Budget.model_validate(content)
    except ValidationError as error:
        why = told(error.errors()[0])
    except ValueError:
        why = f"{shown(amount)!r} is no number"
    raise RecipeError(f"--budgets: {shown(text)} is no budget.{kind}: {why}; write 0.5x, macs=0.5x or latency_ms=12")


def search(
    recipe: Recipe,
    target: Target,
    runs_dir: Path,
    *,
    budgets: Sequence[str],
    methods: Sequence[str],
    storage: str | None = None,
    console: Console | None = None,
) -> int:
    """Run every point that nobody else has taken, then write `search.json`, `search.html`; gives the exit status.

    Args:
        storage: a journal file or a database URL of Optuna, to share a search between machines; None: a journal file
            beside the runs.

    Raises:
        EdgepruneError: the recipe is wrong, or the dense network cannot be had.
    """
    console = console or progress.console()
    wanted = points(recipe, target, budgets, methods)
    home = runs_dir / f"{recipe.name}@{target.name}-search"
    study = _study(storage, home, f"{recipe.name}@{target.name}")
    weights = _dense(recipe, target, runs_dir, console)
    outside = inputs.outside(recipe, target)
    keys = {name: hash_obj([made.model_dump(mode="json"), outside]) for name, made in wanted.items()}
    _enqueue(study, keys, runs_dir, target, console)
    while (trial := _next(study, wanted)) is not None:
        name = trial.user_attrs["point"]
        left = sum(t.state == TrialState.WAITING for t in study.get_trials(deepcopy=False))
        console.rule(f"{name} ({left} more waiting)")
        _run(study, trial, wanted[name].from_weights(weights), target, runs_dir, console)
    return _report(study, keys, home, console)


def _study(storage: str | None, home: Path, name: str) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    place = Path(storage) if storage else home / "journal.log"
    try:
        held = RDBStorage(storage) if storage and "://" in storage else _journal(place)
        return optuna.create_study(
            storage=held, study_name=name, directions=["maximize", "minimize"], load_if_exists=True
        )
    except Exception as error:  # of Optuna, SQLAlchemy, a driver of the database, or a journal that is none
        raise RecipeError(f"--storage: {storage or place} cannot be opened: {first_line(error)}") from error


def _journal(path: Path) -> BaseStorage:
    path.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(path)))


def _dense(recipe: Recipe, target: Target, runs_dir: Path, console: Console) -> Path:
    """The dense network's weights, trained once; a second process waits for the first."""
    if recipe.model.checkpoint and recipe.train is None:
        return Path(recipe.model.checkpoint).expanduser()
    told = False
    while True:
        try:
            return pipeline.dense(recipe, target, runs_dir, console)
        except RunLockedError:
            if not told:
                console.print("another process trains the dense network; waiting for it")
            told = True
            time.sleep(1)


def _enqueue(study: optuna.Study, keys: dict[str, str], runs_dir: Path, target: Target, console: Console) -> None:
    """Put into the study what is not in it, what a process that is gone has left half-done, and what no device has measured.

    A point's key says all that it hangs on (recipe, target, data, code): where that has changed it is run again. All of it
    under one lock, so that two processes that start together do not put a point in twice.
    """
    with _waiting_for(runs_dir / f"{study.study_name}-search"):
        have: dict[str, str] = {}
        for t in study.get_trials(deepcopy=False):
            if (
                t.state == TrialState.WAITING
                or ((row := _row(t)) is not None and row["status"] != DeviceError.exit_status)
                or (t.state == TrialState.RUNNING and _held(runs_dir, t, target))
            ):
                have[t.user_attrs.get("point", "")] = t.user_attrs.get("key", "")
            elif t.state == TrialState.RUNNING:
                console.print(f"{t.user_attrs.get('point')} was left by a process that is gone; it is taken up again")
                study.tell(t.number, state=TrialState.FAIL)
        for name, key in keys.items():
            if have.get(name) != key:
                study.enqueue_trial({}, user_attrs={"point": name, "key": key})


@contextlib.contextmanager
def _waiting_for(folder: Path) -> Iterator[None]:
    """The folder's lock, as soon as nobody else has it."""
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(lock(folder))
                break
            except RunLockedError:
                time.sleep(0.2)
        yield


def _held(runs_dir: Path, trial: FrozenTrial, target: Target) -> bool:
    """Is somebody working on a running point? The run's lock goes with the process; another machine's cannot be seen from here."""
    if trial.user_attrs.get("machine", platform.node()) != platform.node():
        return True
    try:
        with lock(runs_dir / f"{trial.user_attrs.get('point')}@{target.name}"):
            return False
    except RunLockedError:
        return True


def _next(study: optuna.Study, wanted: dict[str, Recipe]) -> optuna.Trial | None:
    """A waiting point of this search, now ours; None where none is left."""
    for t in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        if t.user_attrs.get("point") in wanted and study._storage.set_trial_state_values(
            t._trial_id, TrialState.RUNNING
        ):
            trial = optuna.Trial(study, t._trial_id)
            trial.set_user_attr("machine", platform.node())
            return trial
    return None


def _run(
    study: optuna.Study, trial: optuna.Trial, made: Recipe, target: Target, runs_dir: Path, console: Console
) -> None:
    """One point: a normal run; its report is what the study remembers."""
    try:
        status = pipeline.run(made, target, runs_dir, console)
        report = read_json(runs_dir / f"{made.name}@{target.name}" / "report.json")
        row = front.row(report, status)
    except Exception as error:  # one point's surprise is no reason to lose the others
        console.print(f"{made.name}: {in_a_line(error)}", style="red", markup=False, soft_wrap=True)
        _tell(study, trial, "error", in_a_line(error), None)
        return
    _tell(study, trial, "row", row, [row["score"], row["ms"] if row["ms"] is not None else float("inf")])


def _row(trial: FrozenTrial) -> dict[str, Any] | None:
    """What a finished point's run has found; None where it has not ended, or the journal does not hold it as it was written."""
    row = trial.user_attrs.get("row") if trial.state == TrialState.COMPLETE else None
    return {k: v for k, v in row.items() if k != SEAL} if sealed(row) else None


def _tell(study: optuna.Study, trial: optuna.Trial, name: str, what: Any, values: list[float] | None) -> None:
    """What became of a point; without values it failed. One that somebody else has given up meanwhile stays as it is."""
    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
        trial.set_user_attr(name, seal(what) if isinstance(what, dict) else what)
        study.tell(trial, values, state=TrialState.FAIL if values is None else None)


def _report(study: optuna.Study, keys: dict[str, str], home: Path, console: Console) -> int:
    """Table, `search.json` and `search.html` of all points, also those of other processes."""
    found, failed, others = {}, {}, 0
    for t in study.get_trials(deepcopy=False):
        point = t.user_attrs.get("point")
        if point not in keys or t.user_attrs.get("key") != keys[point]:  # of an earlier search
            continue
        if row := _row(t):
            found[point] = {"point": point, **row}
        elif t.state == TrialState.FAIL and "error" in t.user_attrs:
            failed[point] = t.user_attrs["error"]
        others += t.state == TrialState.RUNNING
    rows, failed = list(found.values()), {point: why for point, why in failed.items() if point not in found}
    if not rows and not failed:
        raise RecipeError("search: no point has been run")
    rows = front.mark(rows)
    write_json(home / "search.json", {"schema": 1, "rows": rows, "failed": failed})
    write_atomic(home / "search.html", front.page(study.study_name, rows, failed))
    table = Table(title=study.study_name)
    for column in ("point", rows[0]["metric"] if rows else "", "ms", "of dense", "MACs", "budget", "front"):
        table.add_column(column, justify="left" if column == "point" else "right")
    for r in sorted(rows, key=lambda r: r["ms"] or 0):
        table.add_row(
            r["point"], f"{100 * r['score']:.2f}", "-" if r["ms"] is None else f"{r['ms']:.3f}",
            "-" if r["share"] is None else f"{r['share']:.3f}x", f"{r['macs_share']:.3f}x",
            {True: "met", False: "not met", None: "estimated"}[r["met"]], "yes" if r["front"] else "",
        )  # fmt: skip
    for point, why in failed.items():
        table.add_row(point, "-", "-", "-", "-", why[:60], "")
    console.print(table)
    if others:
        console.print(f"{others} points are being run by other processes; run the command again for the whole front")
    console.print(
        f"front: {escape(str(home / 'search.html'))}   numbers: {escape(str(home / 'search.json'))}", soft_wrap=True
    )
    if failed or any(r["status"] == 3 or r["met"] is False for r in rows):
        return 3
    return 4 if any(r["status"] == 4 for r in rows) else 0
