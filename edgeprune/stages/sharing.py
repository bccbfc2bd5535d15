"""Share the budget out: which width each group gets, by the recipe's `allocate` and `worth`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from itertools import pairwise
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
from edgeprune.prune.knapsack import Values, by_proxy, knapsack
from edgeprune.prune.removal import knapsack_with_removal
from edgeprune.stages import latency, load, notes, recovery
from edgeprune.stages.run import Run
from edgeprune.train.recalibrate import recalibrate

_LEVEL = 1.05  # losses of a contest that are within it cannot be told apart
EVENED = (1.0, 3.0, 0.3)  # prices on uneven cuts that the contest tries; the first stands without one
_OTHERS = {
    "even cut": "uniform",
    "all channels compete": "global",
}  # ways that know no measured loss; they join the contest
_FEWER = ", fewer blocks"
_AROUND = 0.3  # of its width may a group move from the contest's winner: a step of 8 is half of 16 and nothing of 216
_TURNS = 4  # in which a contestant's convolutions are measured

# (terms, limit); one with a contest also takes exactly: Exactly | None = None, settle: bool = True
Allocate = Callable[..., Widths]
Exactly = Callable[[Widths], list[Term]]  # the terms, once they are exact for these widths


def share_out(run: Run, cutter: Cutter, dense: ChannelGraph) -> tuple[Widths, dict[str, Any]]:
    """Widths under the recipe's budget, and what the budget says of them; shares are of the `dense` network's cost."""
    recipe = run.recipe
    if recipe.budget.is_latency:
        widths, said = latency.meet(run, cutter, *under_latency(run, cutter, run.facts["profile"]["step"]))
        return widths, said | {"contest": run.kept.get("contest")}
    terms, step = cost.COSTS[recipe.budget.kind](cutter.graph), recipe.prune.step or run.target.channel_step
    whole = total(cost.COSTS[recipe.budget.kind](dense))(dense.widths())
    limit = recipe.budget.limit(whole)
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
    ways = len(EVENED) + len(_OTHERS) + 3  # on twice the step; by MACs on either
    return (
        p.allocate in ("auto", "knapsack")
        and p.worth == "sensitivity"
        and recovery.steps_each(run, len(cutter.graph.groups)) > 0
        and recovery.contest_steps(run, ways) > 0
    )


def allocator(run: Run, cutter: Cutter, step: int, removal: bool = True) -> Allocate:
    """(terms, limit) -> widths. What widths are worth is measured once.

    With the sensitivity after a short recovery, several prices on uneven cuts (and `_OTHERS`) share the first limit out; the
    networks that they come to are trained for a while, and the one that comes closest to the dense network wins. Later
    limits, which follow what built engines measured, stay around its widths where that is enough.

    With a contest, what it returns takes, besides: `exactly`, where terms can be made exact, and `settle`, false for an answer before it.

    Args:
        removal: whole blocks may go, if the recipe lets them.
    """
    recipe, graph, scores = run.recipe, cutter.graph, cutter.scores
    how = recipe.prune.allocate
    how = ("knapsack" if recipe.budget.is_latency else "global") if how == "auto" else how
    if how != "knapsack":
        return lambda terms, limit: by_rank(
            scores, total(terms), limit, how=how, min_keep=recipe.prune.min_keep, step=step
        )
    options = worth.candidates(graph.widths(), floors(scores, recipe.prune.min_keep, step), step)
    blocks = find_blocks(graph) if removal and recipe.prune.remove_blocks != "never" else {}
    free = recipe.prune.remove_blocks == "free"
    if recipe.prune.worth != "sensitivity":
        values = (worth.by_sum if recipe.prune.worth == "sum" else worth.by_score)(scores, options)
        nothing = dict.fromkeys(blocks, 0.0)
        return lambda terms, limit: knapsack_with_removal(graph, values, terms, limit, nothing, free)
    found = sensitivity(run, cutter, blocks)
    rules, by_macs = {"measured loss": worth.by_sensitivity(found.curves, scores, options)}, {}
    if found.stays:
        after = found.after(found.power)
        wider = worth.candidates(graph.widths(), floors(scores, recipe.prune.min_keep, 2 * step), 2 * step)
        fine, coarse = (worth.by_sensitivity(after, scores, widths) for widths in (options, wider))
        name = "loss after fine-tuning, evened by"
        rules = {f"{name} {strength:g}": worth.evened(fine, after, strength) for strength in EVENED}
        first, wide = next(iter(rules)), worth.evened(coarse, after, EVENED[0])
        if recipe.budget.is_latency:
            by_macs = {f"MACs, steps of {step}": rules[first], f"MACs, steps of {2 * step}": wide}
        rules[f"{first}, steps of {2 * step}"] = wide
    settled: list[tuple[Values, Values]] = []  # of the rule that won: all its widths, and those around the winner
    finest = rules[next(iter(rules))]  # the winner's widths may be coarser: no block goes while narrower ones fit

    @cache  # measured only where blocks have to go
    def removed() -> dict[str, float]:
        return _removed(run, cutter, found, blocks) if blocks and found.stays else found.removed

    def fewer(values: Values, terms: list[Term], limit: float) -> Widths:
        return knapsack_with_removal(graph, values, terms, limit, removed(), free)

    def allocate(terms: list[Term], limit: float, exactly: Exactly | None = None, settle: bool = True) -> Widths:
        if settle and not settled:
            fields = Fields(rules, by_macs, options, fewer if blocks else None, free)
            settled.append(_settle(run, cutter, fields, terms, limit, step, exactly))
        whole, near = settled[0] if settled else (finest, {})
        for values in (near, {} if free else whole):
            with suppress(BudgetError):
                if values:
                    return knapsack(values, terms, limit)
        return fewer(whole if free else finest, terms, limit)

    return allocate


@dataclass(frozen=True)
class Fields:
    """Who competes.

    Args:
        rules: name -> what widths are worth.
        by_macs: the same, for ways that spend MACs and not milliseconds: they do not like what a table underestimates.
        options: group -> all its widths on the device's step.
        fewer: (values, terms, limit) -> widths, 0 for those of blocks that go; None: none may.
        free: blocks may go where widths alone meet the limit, too.
    """

    rules: dict[str, Values]
    by_macs: dict[str, Values]
    options: dict[str, list[int]]
    fewer: Callable[[Values, list[Term], float], Widths] | None
    free: bool


def _settle(
    run: Run, cutter: Cutter, fields: Fields, terms: list[Term], limit: float, step: int, exactly: Exactly | None
) -> tuple[Values, Values]:
    """The values of the rule whose network heals best in the contest, and their part around that network's widths;
    without a contest those of the first rule, and nothing.

    What a contest has decided stays decided (`prune/settled.json`): a loop of engines that was killed goes on with the same
    network, although its table has grown meanwhile.
    """
    rules, first = fields.rules, next(iter(fields.rules))
    path, key = run.folder / "prune" / "settled.json", notes.key_of(run, cutter, [step, list(rules)])
    if told := notes.told(path, key):
        run.kept["contest"] = told["contest"]
        return _around(fields, told["contest"]["winner"], told["widths"], step)
    run.kept["contest"] = None
    contestants: dict[str, Widths] = {}

    def enter(name: str, way: Callable[[list[Term]], Widths]) -> None:
        with suppress(BudgetError):
            widths = _standing(way, terms, exactly)
            if widths not in contestants.values():
                contestants[name] = widths

    for name, values in rules.items():
        enter(name, lambda t, v=values: knapsack(v, t, limit))
    fit = bool(contestants)
    if fields.fewer and len(rules) > 1 and (fields.free or not fit):
        for name, values in rules.items():
            enter(name + _FEWER, lambda t, v=values, f=fields.fewer: f(v, t, limit))
    if fit and len(rules) > 1:
        scores, least, macs = cutter.scores, run.recipe.prune.min_keep, cost.macs(cutter.graph)
        for name, values in fields.by_macs.items():
            enter(name, lambda t, v=values: by_proxy(v, macs, t, limit))
        for name, how in _OTHERS.items():
            enter(name, lambda t, h=how: by_rank(scores, total(t), limit, how=h, min_keep=least, step=step))
    unlike = any(a != b for a, b in pairwise(contestants.values()))
    steps = recovery.contest_steps(run, len(contestants)) if unlike else 0  # a budget wider than dense leaves no choice
    if not steps:
        return rules[first], {}
    loss = recovery.contest(run, cutter.to(PartialState().device), contestants, steps)
    best = _winner(loss, contestants)
    run.kept["contest"] = {"steps": steps, "winner": best, "loss": loss}
    write_json(path, {"key": key, "contest": run.kept["contest"], "widths": contestants[best]})
    run.console.print(
        f"contest of {len(loss)} ways to share the budget out, {steps} steps each: {best} wins ("
        + ", ".join(f"{n} {v:.4f}" for n, v in sorted(loss.items(), key=lambda item: item[1]))
        + ")"
    )
    return _around(fields, best, contestants[best], step)


def _winner(loss: dict[str, float], contestants: dict[str, Widths]) -> str:
    """The least loss; of those that are level with it the one whose narrowest layer is the widest.

    A hundred steps do not see how much narrow layers lack after a whole fine-tuning.
    """
    level = [n for n in loss if loss[n] <= _LEVEL * min(loss.values())]
    return min(level, key=lambda n: (-min(w for w in contestants[n].values() if w), loss[n]))


def _around(fields: Fields, winner: str, widths: Widths, step: int) -> tuple[Values, Values]:
    """The winner's values, all of them and those near its widths."""
    values = fields.rules.get(winner.removesuffix(_FEWER), fields.rules[next(iter(fields.rules))])
    return values, _near(values, widths, fields.options, step)


def _standing(way: Callable[[list[Term]], Widths], terms: list[Term], exactly: Exactly | None) -> Widths:
    """A contestant's widths, shared out anew until they stand on measurements: ways like what a table underestimates."""
    widths, turns = way(terms), 0
    while exactly is not None and turns < _TURNS:
        again = way(exactly(widths))
        if again == widths:
            break
        widths, turns = again, turns + 1
    return widths


def _near(values: Values, winner: Widths, options: dict[str, list[int]], step: int) -> Values:
    """Values of those of the `options` that are a step or `_AROUND` from the winner's widths at most.

    A group narrows only if it must, and rather several by little than one to a half.
    """
    most = max(max(v.values()) - min(v.values()) for v in values.values())
    found: Values = {}
    for name, width in winner.items():
        if not width:
            found[name] = {0: 0.0}  # of a block that went
            continue
        known = sorted(values[name])
        around = {w for w in {*options[name], width} if abs(w - width) <= max(step, _AROUND * width)}
        found[name] = {
            w: float(np.interp(w, known, [values[name][k] for k in known])) - most * max(0.0, np.log2(width / w)) ** 2
            for w in sorted(around)
        }
    return found


def sensitivity(run: Run, cutter: Cutter, blocks: Blocks) -> worth.Losses:
    """What cuts cost, each alone, after a short recovery; kept beside the scores as `prune/sensitivity.json`."""
    steps = recovery.steps_each(run, len(cutter.graph.groups))
    cutter = cutter.to(PartialState().device)
    yard = _yardstick(run, cutter)
    with Progress("sensitivity", len(worth.SHARES) * len(cutter.graph.groups) + len(blocks), unit="cuts") as bar:
        found = worth.sensitivity(cutter, yard, blocks, bar.move)
    if steps:
        found = recovery.healed(run, cutter, yard, found, steps)
    write_json(run.folder / "prune" / "sensitivity.json", {"recovery_steps": steps} | asdict(found))
    return found


def _removed(run: Run, cutter: Cutter, found: worth.Losses, blocks: Blocks) -> dict[str, float]:
    """What the removal of blocks costs after a short recovery, as `found` says it of widths."""
    steps = recovery.steps_each(run, len(cutter.graph.groups))
    cutter = cutter.to(PartialState().device)
    return recovery.without_blocks(run, cutter, _yardstick(run, cutter), found, blocks, steps)


def _yardstick(run: Run, cutter: Cutter) -> worth.Yardstick:
    data, count = load.dataset(run, "train"), run.recipe.prune.sensitivity_images
    chosen = [data[i * len(data) // count][0] for i in range(min(count, len(data)))]
    images = [normalised(np.stack(chosen[n : n + 4])) for n in range(0, len(chosen), 4)]
    settling = [(b, None) for b in images if len(b) > 1]  # a norm over one pooled value has no variance

    def settle(cut: nn.Module) -> None:
        if settling:
            recalibrate(cut, settling, len(settling))

    return worth.Yardstick(cutter.net, images, load.task(run).apart, settle)
