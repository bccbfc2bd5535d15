"""Precision by measurement (`deploy.precision: fastest`): of the target's precisions the fastest whose engine passes the gates.

Until here everything was planned at the target's own precision. Now the pruned network is built at each one that the target
has, judged on all validation images, and timed in turn with the engine of the target's own; what cannot be told apart by
the intervals stays with the target's own. The engine that ships is judged again by `verify`, as any.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

import numpy as np
from accelerate import PartialState
from rich.markup import escape

from edgeprune.deploy import gates as gating
from edgeprune.deploy.candidates import Candidate
from edgeprune.deploy.gates import Gate
from edgeprune.deploy.heads import fastest
from edgeprune.errors import EngineError, ExportError
from edgeprune.files import write_atomic, write_json
from edgeprune.measure.race import Race, race
from edgeprune.progress import Progress
from edgeprune.recipe import Recipe
from edgeprune.runtime import Engine
from edgeprune.stages import latency, load
from edgeprune.stages.deploy import (
    RESULT,
    build,
    calibration,
    device,
    graph_of,
    network,
    precision,
    types_beside,
    whole,
    with_types,
)
from edgeprune.stages.run import Run


def judged_by(recipe: Recipe) -> tuple[str, ...]:
    """The keys that have a say in which precision is the fastest to pass."""
    return ("deploy.gates",) if recipe.deploy.precision == "fastest" else ()


def choose(run: Run) -> dict[str, Any]:
    """`chosen`: a precision, or None where the recipe names one; writes `precision/candidates.json`."""
    if run.recipe.deploy.precision != "fastest":
        return {"chosen": None}
    own, home = precision(run), run.folder / "precision"
    missing = _missing(run)
    if missing:
        run.console.print(f"[yellow]precision: {own}, the target's own, is taken untried: {escape(missing)}[/yellow]")
        return {"chosen": own, "reference": own, "why_not": missing, "candidates": []}
    engines, others = _engines(run, own)
    reference = next(iter(engines))
    judged = _judged(run, engines, reference)
    chosen = _fastest(run, engines, judged) or reference
    rows = [c.record(reference, chosen) for c in (*judged, *others)]
    for row in rows:
        run.console.print(f"precision {row['asked']}: {escape(row['verdict'])}", highlight=False)
    if chosen != own:
        types_beside(_at(run, chosen))
    for asked in run.target.precisions:  # compile builds the one that ships, and the dense network's
        shutil.rmtree(home / asked, ignore_errors=True)
    facts = {"chosen": chosen, "reference": reference, "why_not": None, "candidates": rows}
    write_json(home / "candidates.json", facts)
    return facts


def _missing(run: Run) -> str | None:
    """Why nothing can be tried here; None where it can."""
    if run.target.host is None and (run.folder / RESULT).exists():
        return f"{RESULT} was brought from the device, where the bundle was built at that precision"
    return device(run).why_not()


def _at(run: Run, asked: str) -> Run:
    """The same run as if its recipe named this precision."""
    cfg = run.recipe.deploy.model_copy(update={"precision": asked})
    return replace(run, recipe=run.recipe.model_copy(update={"deploy": cfg}))


def _engine(run: Run, role: str, asked: str) -> Engine:
    """The engine of a network at a precision; its files lie under `precision/<asked>/<role>`."""
    at, home = _at(run, asked), run.folder / "precision" / asked / role
    source = home / f"{role}.onnx"
    write_atomic(source, graph_of(run, role).read_bytes())
    with_types(at, source, list(calibration(at)))
    return build(at, source, home, calibration(at), lambda: whole(at, role))


def _engines(run: Run, own: str) -> tuple[dict[str, Engine], list[Candidate]]:
    """Engines by precision, the target's own first, each of another kind; and what was left out.

    Raises:
        EngineError: none can be built; the message is that of the target's own.
    """
    engines: dict[str, Engine] = {}
    left_out: list[Candidate] = []
    first: EngineError | ExportError | None = None
    for asked in (own, *(p for p in run.target.precisions if p != own)):
        run.console.print(f"[dim]building the pruned engine at {asked}[/dim]")
        try:
            made = _engine(run, "pruned", asked)
        except (EngineError, ExportError) as error:
            first = first or error
            left_out.append(Candidate(asked, left_out=f"not built: {error}"))
            continue
        twin = next((name for name, other in engines.items() if other.precision == made.precision), None)
        if twin is not None:
            left_out.append(Candidate(asked, made.precision, f"runs at {made.precision} here, as {twin} does"))
            continue
        engines[asked] = made
    if not engines:
        assert first is not None
        raise first
    return engines, left_out


def _judged(run: Run, engines: dict[str, Engine], reference: str) -> list[Candidate]:
    """Each engine against PyTorch on the validation images, and against the reference's time."""
    data, task = load.dataset(run, "val"), load.task(run)
    here = network(run, "pruned").to(PartialState().device)
    with Progress("judging pruned", len(data), unit="images") as bar:
        pytorch = task.evaluate(task.predictor(here), data, tick=bar.move)
    found = []
    for asked, made in engines.items():
        with Progress(f"judging {asked}", len(data), unit="images") as bar:
            answers = task.evaluate(made.predict, data, tick=bar.move)
        gates = task.gates(run.recipe.deploy.gates, task.parity(pytorch, answers), task.row(answers))
        timed = _race(run, engines[reference], made)
        share = (timed.share, timed.low, timed.high) if asked != reference else (1.0, 1.0, 1.0)
        gates += _latency(run, timed)
        if all(gate.passed for gate in gates):
            gates += _speedup(run, made, asked)
        ms = float(np.median(timed.fast))
        found.append(Candidate(asked, made.precision, None, gates, ms, share[0], (share[1], share[2])))
    return found


def _race(run: Run, slow: Engine, fast: Engine, *, decided: bool = False) -> Race:
    image = load.dataset(run, "val")[0][0][None]
    return race(lambda n: device(run).pairs(slow, fast, image, n), seconds=10, decided=decided)


def _latency(run: Run, timed: Race) -> list[Gate]:
    """A budget in milliseconds holds for the engine that ships. (A share of the dense engine's is refused by `compatible`.)"""
    if not run.recipe.budget.is_latency:
        return []
    base = float(np.median(timed.slow))
    limit, (_, _, high) = latency.limit_of(run, base), latency.milliseconds(run, timed, base)
    return [Gate("latency", round(limit, 4), high, high <= limit, "ms, upper end of 95 %")]


def _speedup(run: Run, made: Engine, asked: str) -> list[Gate]:
    """Pruned against dense, both at this precision: int8 may gain less by pruning than f32 does."""
    least = run.recipe.deploy.gates.min_speedup
    if least is None:
        return []
    found = _race(run, _engine(run, "dense", asked), made)
    return gating.at_least("min_speedup", least, 1 / found.high, "lower end of 95 %")


def _fastest(run: Run, engines: dict[str, Engine], judged: list[Candidate]) -> str | None:
    """The one of those that pass which no other clearly beats; None where none passes."""
    names = [c.asked for c in judged if c.passed]
    if not names:
        return None
    return fastest(names, lambda best, name: _race(run, engines[best], engines[name], decided=True).high < 1)
