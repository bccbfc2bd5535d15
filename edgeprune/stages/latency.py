"""The closed loop: allocate on the predictor, build the engine, measure it against the dense one, correct, repeat.

Where whole networks compete for the budget, the first engines (one or two) only teach the predictor: contestants that a
table misjudges compete under another limit than the device's, and what wins there need not be what is best here.

A budget counts as met only when the upper end of the measured 95 % interval is under it. The same engine takes another per cent at
another hour, and it is measured again after hours of fine-tuning; so one is sought that leaves a margin of 1 %, and uses 96 %
of the budget unless no wider one fits. Milliseconds are those of the session in which the dense engine was
profiled: every engine is timed in turn with the dense one, and their ratio survives what slows both.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from edgeprune.errors import BudgetError
from edgeprune.measure.belief import PACE, PACE_OF_RATIOS, Known, NotBelieved, believed
from edgeprune.measure.bootstrap import Interval, time_median
from edgeprune.measure.race import Race, race
from edgeprune.profile import context
from edgeprune.profile.predict import Predictor, errors
from edgeprune.progress import doing
from edgeprune.prune.cost import Widths
from edgeprune.prune.cutter import Cutter
from edgeprune.recipe.units import amount, asked
from edgeprune.stages import load
from edgeprune.stages.asked import budget_limit, in_units
from edgeprune.stages.deploy import device, precision
from edgeprune.stages.loop import MARGIN, History, Tried
from edgeprune.stages.profile import again, engine_of, patience_of, predictor_of, profiler_of, take_renewed
from edgeprune.stages.run import Run

ENGINES, LAST_RESORT = 5, 8  # as a rule; and where none of the first has met the budget
SCOUTS, CLOSE = 2, 0.03  # engines that only teach the predictor; how well it predicts where one is enough
AMPLE = 1.5  # times what was measured are within the budget
USED, AIM = 0.96, 0.98  # the least share of the budget that is used; what is aimed at

_ROUNDS = 8  # of answers whose convolutions are measured before an engine is built

Allocate = Callable[[Predictor, float], Widths]  # under so many milliseconds


def limit_of(run: Run, dense_ms: float) -> float:
    """The budget in milliseconds an image."""
    return budget_limit(run.recipe.budget, dense_ms)


def meet(run: Run, cutter: Cutter, allocate: Allocate, scout: Allocate | None = None) -> tuple[Widths, dict[str, Any]]:
    """Widths whose built engine was measured within the budget, and the history of how they were found.

    Writes `prune/latency.json`. Without the device at hand, the widths of the estimate.

    Args:
        scout: shares out for the first engines, from which the predictor learns before `allocate` is asked.

    Raises:
        BudgetError: it cannot be reached; the message gives what can.
        NotBelieved: the machine is too busy, or contradicts a profile that was taken again.
    """
    take_renewed(run)
    try:
        return _meet(run, cutter, allocate, scout)
    except NotBelieved as error:
        if not error.steady or "profiled again" in run.kept:
            raise
        run.console.print(f"{error}: the profile is not of this pace; profiling again", style="yellow", markup=False)
    run.kept.pop("timed dense", None)
    run.kept["profiled again"] = True
    again(run)
    return _meet(run, cutter, allocate, scout)


def _meet(run: Run, cutter: Cutter, allocate: Allocate, scout: Allocate | None = None) -> tuple[Widths, dict[str, Any]]:
    facts, predictor = run.facts["profile"], predictor_of(run, cutter.graph)
    limit = limit_of(run, facts["dense_ms"])
    if facts["kind"] == "estimated":
        with in_units(run.recipe.budget, facts["dense_ms"]):
            widths = allocate(predictor, limit)
        return widths, {"estimated": True, "limit": limit, "achieved": predictor(widths), "dense": facts["dense_ms"]}
    reachable(run, predictor.fixed, facts["dense_ms"])
    history = History(run, cutter, limit)
    tried, aim = history.resume(predictor, AIM * limit)
    exhausted = False
    while not _enough(tried):
        way = scout if scout and _learning(run, tried) else allocate
        before = [t.widths for t in tried if way is scout or not t.scout]
        with in_units(
            run.recipe.budget, facts["dense_ms"], "somewhat less, so that what ships is within it at another hour, too"
        ):
            widths = _next(run, predictor, way, aim, before)
        if widths is None and way is scout:  # it has no other to learn from
            scout = None
            continue
        if widths is None:
            exhausted = True
            break
        known = next((t for t in tried if t.widths == widths), None)
        if known:  # what was built to learn from is what was looked for
            tried.remove(known)
            tried.append(replace(known, scout=False))
            continue
        with doing(f"engine {len(tried) + 1}"):
            made = _measure(run, cutter, widths, predictor(widths), len(tried) + 1)
        now = replace(made, scout=way is scout)
        tried.append(now)
        predictor.learn(widths, _profiles(run, now), _profiled(run, len(tried)))
        run.console.print(
            f"engine {len(tried)}{', to learn from' if now.scout else ''}: predicted {now.predicted:.3f} ms, "
            f"measured {now.ms:.3f} [{now.low:.3f}, {now.high:.3f}], budget {amount(run.recipe.budget.kind, now.limit)}: {'met' if now.met else 'over'}, {now.used:.1%} used"
        )
        spread = (now.high - now.ms) / now.ms
        here = now.limit * facts["dense_ms"] / now.record["dense_ms"]  # the budget in the profile's milliseconds
        aim = here * min(AIM, 1 - MARGIN - spread - 0.003) * (1 + (0.004 if now.safe else -0.002) * len(tried))
        history.keep(tried, predictor, aim)
    chosen = max((t for t in tried if t.met), key=lambda t: (not t.scout, t.merit), default=None)
    history.close(tried, chosen)
    run.kept.pop("timed dense", None)
    shutil.rmtree(run.folder / "prune" / "candidates", ignore_errors=True)  # gigabytes for large networks
    if chosen is None:
        least = min(tried, key=lambda t: t.ms)
        raise BudgetError(
            f"budget.{run.recipe.budget.kind}: {asked(run.recipe.budget, facts['dense_ms'])} not met by {len(tried)} engines; the "
            f"nearest measured {least.ms:.3f} ms [{least.low:.3f}, {least.high:.3f}] of {least.limit:.3f} ms; see "
            f"{run.folder / 'prune' / 'latency.json'}"
        )
    if chosen.widths == cutter.graph.widths():
        run.console.print(
            f"[yellow]the dense network is within the budget ({chosen.used:.1%} of it used): nothing is pruned[/yellow]"
        )
    elif chosen.used < USED:
        why = "no wider network on these steps fits" if exhausted else f"the nearest of {len(tried)} engines"
        run.console.print(
            f"[yellow]{chosen.used:.1%} of the budget is used: {why}; widths step at {facts['step']} channels[/yellow]"
        )
    return chosen.widths, _facts(run, tried, chosen)


def _learning(run: Run, tried: list[Tried]) -> bool:
    """Does the predictor still learn the device, before the budget is shared out in earnest?"""
    if not all(t.scout for t in tried) or len(tried) >= SCOUTS:
        return False
    return not tried or abs(tried[-1].predicted / _profiles(run, tried[-1]) - 1) > CLOSE


def _enough(tried: list[Tried]) -> bool:
    """Is the last engine good enough, or have as many been built as may be?"""
    ours = [t for t in tried if not t.scout]
    if not ours:
        return False
    most = ENGINES if any(t.met for t in ours) else LAST_RESORT
    return (ours[-1].safe and ours[-1].used >= USED) or len(tried) >= most


def reachable(run: Run, fixed: float, dense: float) -> None:
    """More milliseconds than are `fixed` of the `dense` engine's.

    Raises:
        BudgetError: fewer.
    """
    if limit_of(run, dense) <= fixed:
        raise BudgetError(
            f"budget.{run.recipe.budget.kind}: {asked(run.recipe.budget, dense)} cannot be reached by pruning: {fixed:.3f} ms of "
            f"the dense engine's {dense:.3f} ms do not depend on widths (input, full-size resize, argmax, the call itself)"
        )


def _next(run: Run, predictor: Predictor, allocate: Allocate, aim: float, before: list[Widths]) -> Widths | None:
    """Unseen widths for `aim`, with their very convolutions measured first; None where nothing new is found.

    The allocator likes what the table underestimates. Its answers' convolutions are therefore measured and it is asked
    again, until the answer stands on measurements; of the answers on the way the widest that still fits is taken.
    """
    for turn in range(4):
        aimed = aim * (1 + 0.004 * turn * (1 if turn % 2 else -1))
        answers: list[Widths] = []
        try:
            for _ in range(_ROUNDS):
                found = allocate(predictor, aimed)
                if found in answers:
                    break
                answers.append(found)
                measure_exactly(run, predictor, found)
        except BudgetError:
            if not answers and not before:
                raise
        new = [w for w in answers if w not in before]
        fitting = [w for w in new if predictor(w) <= 1.001 * aimed]
        if fitting:
            return max(fitting, key=predictor)
        if new:
            return min(new, key=predictor)
    return None


def measure_exactly(run: Run, predictor: Predictor, widths: Widths) -> None:
    """The table's gaps filled where these widths need it."""
    keys = {key for _, key in predictor.keys(widths)}
    for key, ms in profiler_of(run).ensure(keys, "exact widths").items():
        predictor.surfaces[key.signature].exact[key.inputs, key.outputs] = ms  # type: ignore[attr-defined]


def _measure(run: Run, cutter: Cutter, widths: Widths, predicted: float, number: int) -> Tried:
    started = time.perf_counter()
    home = run.folder / "prune" / "candidates"
    small = cutter.small(cutter.plan(widths), load.example(run))
    image = load.dataset(run, "val")[0][0][None]
    if "timed dense" not in run.kept:
        run.kept["timed dense"] = engine_of(run, cutter.net, home, "dense")
    dense, made = run.kept["timed dense"], engine_of(run, small, home, f"{number}")
    base = run.facts["profile"]["dense_ms"]
    relative = run.recipe.budget.kind == "latency"
    found = believed(
        lambda: race(lambda n: device(run).pairs(dense, made, image, n)),
        Known(
            share=predicted / base
            if number > 1
            else None,  # the first engine shows how the device differs from its table
            doubt=CLOSE,
            rough=None if run.facts["profile"].get("renewed") else predicted / base,
            slow=base,
            pace=PACE_OF_RATIOS if relative else PACE,
            decided=lambda r: widths == cutter.graph.widths() and amply(run, r, base),
        ),
        patience_of(run),
    )
    now = float(np.median(found.slow))
    scale = base if relative else now  # a share is of the dense engine as profiled; milliseconds are today's
    ms, low, high = milliseconds(run, found, scale)
    where = profiler_of(run)
    where.table.add_engine(where.where, _network(run), widths, found.share * base, base, predicted)
    return Tried(
        widths, predicted, limit_of(run, base), ms, low, high,
        found.record() | {"dense_ms": scale}, made.precision, time.perf_counter() - started,
    )  # fmt: skip


def amply(run: Run, found: Race, dense: float) -> bool:
    """Is the budget met with so much to spare that nothing hangs on what disturbed the race?"""
    return AMPLE * milliseconds(run, found, dense)[2] <= limit_of(run, dense)


def milliseconds(run: Run, found: Race, dense: float) -> Interval:
    """What an engine takes, with its 95 % interval: of a relative budget its share of the `dense` engine's milliseconds, which
    survives what slows both; of one in milliseconds its own ones, which do not."""
    if run.recipe.budget.kind == "latency":
        return found.share * dense, found.low * dense, found.high * dense
    return time_median(found.fast)


def _profiled(run: Run, number: int) -> context.Context:
    """The engine's own layers."""
    home = run.folder / "prune" / "candidates"
    onnx, made = home / f"{number}.onnx", home / f"engine-{number}" / "engine.xml"
    return context.read(onnx, device(run).layers(made if made.exists() else onnx, precision(run)))


def _network(run: Run) -> str:
    m = run.recipe.model
    return f"{m.network or m.factory}{f' {m.args}' if m.args else ''} {'x'.join(map(str, run.recipe.data.size))}"


def _facts(run: Run, tried: list[Tried], chosen: Tried) -> dict[str, Any]:
    return {
        "estimated": False, "limit": chosen.limit, "achieved": chosen.ms, "ci95": [chosen.low, chosen.high],
        "dense": run.facts["profile"]["dense_ms"], "used": chosen.used, "engines_built": len(tried),
        "share": chosen.record.get("share"), "precision": chosen.precision,
        "predicted": chosen.predicted, "prediction": errors([t.predicted for t in tried], [_profiles(run, t) for t in tried]),
    }  # fmt: skip


def _profiles(run: Run, t: Tried) -> float:
    """An engine's milliseconds at the pace that the machine had while the dense engine was profiled."""
    return t.ms * run.facts["profile"]["dense_ms"] / t.record["dense_ms"]
