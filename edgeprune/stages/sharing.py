"""Share the budget out: which width each group gets, by the recipe's `allocate` and `worth`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from typing import Any

import numpy as np
from accelerate import PartialState
from torch import nn

from edgeprune.data.transforms import normalised
from edgeprune.errors import BudgetError
from edgeprune.files import write_json
from edgeprune.profile.predict import Predictor
from edgeprune.progress import Progress
from edgeprune.prune import cost, worth
from edgeprune.prune.allocate import allocate as by_rank
from edgeprune.prune.allocate import floors
from edgeprune.prune.blocks import Blocks, find_blocks
from edgeprune.prune.channels import ChannelGraph
from edgeprune.prune.cost import Term, Widths, total
from edgeprune.prune.cutter import Cutter
from edgeprune.prune.knapsack import Values, knapsack
from edgeprune.prune.proof import removable
from edgeprune.prune.removal import knapsack_with_removal
from edgeprune.stages import contest, latency, load, notes, recovery
from edgeprune.stages.asked import in_units
from edgeprune.stages.run import Run
from edgeprune.train.recalibrate import recalibrate

EVENED = (1.0, 3.0, 0.3)  # prices on uneven cuts that the contest tries; the first stands without one

# (terms, limit); one with a contest also takes exactly: contest.Exactly | None = None, settle: bool = True
Allocate = Callable[..., Widths]


def share_out(run: Run, cutter: Cutter, dense: ChannelGraph) -> tuple[Widths, dict[str, Any]]:
    """Widths under the recipe's budget, and what the budget says of them; shares are of the `dense` network's cost."""
    recipe = run.recipe
    if recipe.budget.is_latency:
        widths, said = latency.meet(run, cutter, *under_latency(run, cutter, run.facts["profile"]["step"]))
        return widths, said | {"contest": run.kept.get("contest")}
    kind, step, by_fvcore = recipe.budget.kind, recipe.prune.step or run.target.channel_step, run.facts["load"]["macs"]
    terms, whole = cost.counted(kind, cutter.graph, dense, by_fvcore)
    if kind == "macs" and whole > by_fvcore:
        run.console.print(
            f"[yellow]fvcore counts {whole - by_fvcore:,.0f} MACs less than the layers have; the budget goes by the layers[/yellow]"
        )
    limit = recipe.budget.limit(whole)
    with in_units(recipe.budget, whole):
        widths = allocator(run, cutter, step)(terms, limit)
    price = total(terms)(widths)
    if price < 0.99 * limit:
        run.console.print(
            f"[yellow]widths in steps of {step} leave {1 - price / limit:.1%} of the budget unused; prune.step: 1 "
            "uses all of it[/yellow]"
        )
    return widths, {"limit": limit, "achieved": price, "dense": whole, "contest": run.kept.get("contest")}


def under_latency(run: Run, cutter: Cutter, step: int) -> tuple[latency.Allocate, latency.Allocate | None]:
    """For the closed loop: how the budget is shared out, and how for its first engine, if there will be a contest."""

    def asked(settle: bool) -> latency.Allocate:
        def allocate(predictor: Predictor, limit: float) -> Widths:
            def terms() -> list[Term]:
                return [Term(*t) for t in predictor.terms(limit)]

            def exactly(widths: Widths) -> list[Term]:
                latency.measure_exactly(run, predictor, widths)
                return terms()

            if not contested:
                return share(terms(), limit)
            measured = run.facts["profile"]["kind"] != "estimated"
            return share(terms(), limit, exactly=exactly if measured else None, settle=settle)

        return allocate

    share, contested = allocator(run, cutter, step), _contested(run, cutter)
    return asked(True), asked(False) if contested else None


def _contested(run: Run, cutter: Cutter) -> bool:
    p = run.recipe.prune
    ways = len(EVENED) + len(contest.OTHERS) + 3  # on twice the step; by MACs on either
    return (
        p.allocate in ("auto", "knapsack")
        and p.worth == "sensitivity"
        and recovery.steps_each(run, len(cutter.graph.groups)) > 0
        and recovery.contest_steps(run, ways) > 0
    )


def allocator(run: Run, cutter: Cutter, step: int, removal: bool = True) -> Allocate:
    """(terms, limit) -> widths. What widths are worth is measured once.

    With the sensitivity after a short recovery and a contest, several prices on uneven cuts (and `contest.OTHERS`) share the first limit out; the
    networks that they come to are trained for a while, and the one that comes closest to the dense network wins. Later
    limits, which follow what built engines measured, stay around its widths where that is enough.

    With a contest, what it returns takes, besides: `exactly`, where terms can be made exact, and `settle`, false for an answer before it.

    Args:
        removal: whole blocks may go, if the recipe lets them.
    """
    recipe, graph, scores = run.recipe, cutter.graph, cutter.scores
    least, edges = recipe.prune.min_keep, graph.steps(step)
    how = recipe.prune.allocate
    how = ("knapsack" if recipe.budget.is_latency else "global") if how == "auto" else how
    if how != "knapsack":
        _no_contest(run, "prune.allocate: knapsack")
        return lambda terms, limit: by_rank(scores, total(terms), limit, how=how, min_keep=least, step=edges)
    options = worth.candidates(graph.widths(), floors(scores, least, edges), edges)
    blocks = find_blocks(graph) if removal and recipe.prune.remove_blocks != "never" else {}
    free = recipe.prune.remove_blocks == "free"

    @cache  # tried only where blocks have to go
    def sound() -> Blocks:
        return removable(cutter.net, graph, load.example(run)) if blocks else {}

    if recipe.prune.worth != "sensitivity":
        _no_contest(run, "prune.worth: sensitivity")
        values = (worth.by_sum if recipe.prune.worth == "sum" else worth.by_score)(scores, options)
        return _by_values(graph, values, sound, free)
    found = sensitivity(run, cutter, blocks)
    rules, by_macs = {"measured loss": worth.by_sensitivity(found.curves, scores, options)}, {}
    if found.stays:
        after = found.after(found.power)
        twice = graph.steps(2 * step)
        wider = worth.candidates(graph.widths(), floors(scores, least, twice), twice)
        fine, coarse = (worth.by_sensitivity(after, scores, widths) for widths in (options, wider))
        name = "loss after fine-tuning, evened by"
        rules = {f"{name} {strength:g}": worth.evened(fine, after, strength) for strength in EVENED}
        first, wide = next(iter(rules)), worth.evened(coarse, after, EVENED[0])
        if recipe.budget.is_latency:
            by_macs = {f"MACs, steps of {step}": rules[first], f"MACs, steps of {2 * step}": wide}
        rules[f"{first}, steps of {2 * step}"] = wide
    else:
        _no_contest(run, "prune.recovery_steps of 1 or more; a fine-tuning as short as this sets none by itself")
    settled: list[tuple[Values, Values]] = []  # of the rule that won: all its widths, and those around the winner
    finest = rules[next(iter(rules))]  # the winner's widths may be coarser: no block goes while narrower ones fit

    @cache  # measured only where blocks have to go
    def removed() -> dict[str, float]:
        return _removed(run, cutter, found, sound())

    def fewer(values: Values, terms: list[Term], limit: float, many: bool = free) -> Widths:
        return knapsack_with_removal(graph, values, terms, limit, removed(), many)

    def allocate(
        terms: list[Term], limit: float, exactly: contest.Exactly | None = None, settle: bool = True
    ) -> Widths:
        if settle and not settled:
            fields = contest.Fields(rules, by_macs, options, fewer if blocks else None, free)
            settled.append(contest.settle(run, cutter, fields, terms, limit, step, exactly))
        whole, near = settled[0] if settled else (finest, {})
        for values in (near, {} if free else whole):
            with suppress(BudgetError):
                if values:
                    return knapsack(values, terms, limit)
        with suppress(BudgetError):
            if near and not free:
                return fewer(near, terms, limit)
        return fewer(whole if free else finest, terms, limit)

    return allocate


def _no_contest(run: Run, needed: str) -> None:
    """Say why there is no contest where the recipe asks for one."""
    if run.recipe.prune.contest_steps:
        run.console.print(f"[yellow]no contest (prune.contest_steps): it needs {needed}[/yellow]")


def _by_values(graph: ChannelGraph, values: Values, sound: Callable[[], Blocks], free: bool) -> Allocate:
    """The knapsack of values that need no measurement; blocks cost nothing."""

    def allocate(terms: list[Term], limit: float) -> Widths:
        if not free:
            with suppress(BudgetError):
                return knapsack(values, terms, limit)
        return knapsack_with_removal(graph, values, terms, limit, dict.fromkeys(sound(), 0.0), free)

    return allocate


def sensitivity(run: Run, cutter: Cutter, blocks: Blocks) -> worth.Losses:
    """What cuts cost, each alone, after a short recovery; kept beside the scores as `prune/sensitivity.json`."""
    steps = recovery.steps_each(run, len(cutter.graph.groups))
    cutter = cutter.to(PartialState().device)
    yard = _yardstick(run, cutter)
    with Progress("sensitivity", len(worth.SHARES) * len(cutter.graph.groups) + len(blocks), unit="cuts") as bar:
        found = worth.sensitivity(cutter, yard, blocks, bar.move)
    if steps:
        found = recovery.healed(run, cutter, yard, found, steps)
    write_json(notes.home(run) / "sensitivity.json", {"recovery_steps": steps} | asdict(found))
    return found


def _removed(run: Run, cutter: Cutter, found: worth.Losses, blocks: Blocks) -> dict[str, float]:
    """What the removal of blocks costs after a short recovery, also where widths are judged without one."""
    asked, groups = run.recipe.prune.recovery_steps, len(cutter.graph.groups)
    steps = recovery.short(run, groups) if asked is None else asked
    if not blocks or not steps:
        return {name: found.removed[name] for name in blocks}
    cutter = cutter.to(PartialState().device)
    yard = _yardstick(run, cutter)
    judged = found if found.stays else recovery.healed(run, cutter, yard, found, steps)
    return recovery.without_blocks(run, cutter, yard, judged, blocks, steps)


def _yardstick(run: Run, cutter: Cutter) -> worth.Yardstick:
    data, count = load.dataset(run, "train"), run.recipe.prune.sensitivity_images
    chosen = [data[i * len(data) // count][0] for i in range(min(count, len(data)))]
    images = [normalised(np.stack(chosen[n : n + 4]), load.normalisation(run)) for n in range(0, len(chosen), 4)]
    settling = [(b, None) for b in images if len(b) > 1]  # a norm over one pooled value has no variance

    def settle(cut: nn.Module) -> None:
        if settling:
            recalibrate(cut, settling, len(settling))

    return worth.Yardstick(cutter.net, images, load.task(run).apart, settle)
