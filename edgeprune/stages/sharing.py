"""Share the budget out: which width each group gets, by the recipe's `allocate` and `worth`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np
from accelerate import PartialState
from torch import nn

from edgeprune.data.transforms import normalised
from edgeprune.errors import BudgetError
from edgeprune.files import write_json
from edgeprune.progress import Progress
from edgeprune.prune import cost, worth
from edgeprune.prune.allocate import allocate as by_rank
from edgeprune.prune.allocate import floors
from edgeprune.prune.blocks import Blocks, find_blocks
from edgeprune.prune.channels import ChannelGraph
from edgeprune.prune.cost import Term, Widths, total
from edgeprune.prune.cutter import Cutter
from edgeprune.prune.knapsack import Values, knapsack
from edgeprune.prune.removal import knapsack_with_removal
from edgeprune.stages import latency, load, notes, recovery
from edgeprune.stages.run import Run
from edgeprune.train.recalibrate import recalibrate

EVENED = (1.0, 3.0, 0.3)  # prices on uneven cuts that the contest tries; the first stands without one
_OTHERS = {
    "even cut": "uniform",
    "all channels compete": "global",
}  # ways that know no measured loss; they join the contest

Allocate = Callable[[list[Term], float], Widths]


def share_out(run: Run, cutter: Cutter, dense: ChannelGraph) -> tuple[Widths, dict[str, Any]]:
    """Widths under the recipe's budget, and what the budget says of them; shares are of the `dense` network's cost."""
    recipe = run.recipe
    if recipe.budget.is_latency:
        allocate = allocator(run, cutter, run.facts["profile"]["step"])
        widths, said = latency.meet(
            run,
            cutter,
            lambda p, limit: allocate([Term(*t) for t in p.terms()], limit),
        )
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


def allocator(run: Run, cutter: Cutter, step: int, removal: bool = True) -> Allocate:
    """(terms, limit) -> widths. What widths are worth is measured once.

    With the sensitivity after a short recovery, several prices on uneven cuts (and `_OTHERS`) share the first limit out; the
    networks that they come to are trained for a while, and the one that comes closest to the dense network wins. Later
    limits, which follow what built engines measured, move its widths by a step at most where that is enough.

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
    rules = {"measured loss": worth.by_sensitivity(found.curves, scores, options)}
    if found.stays:
        after = found.after(found.power)
        wider = worth.candidates(graph.widths(), floors(scores, recipe.prune.min_keep, 2 * step), 2 * step)
        fine, coarse = (worth.by_sensitivity(after, scores, widths) for widths in (options, wider))
        name = "loss after fine-tuning, evened by"
        rules = {f"{name} {strength:g}": worth.evened(fine, after, strength) for strength in EVENED}
        rules[f"{name} {EVENED[0]:g}, steps of {2 * step}"] = worth.evened(coarse, after, EVENED[0])
    settled: list[tuple[Values, Values]] = []  # of the rule that won: all its widths, and those around the winner
    finest = rules[next(iter(rules))]  # the winner's widths may be coarser: no block goes while narrower ones fit

    def allocate(terms: list[Term], limit: float) -> Widths:
        if not settled:
            settled.append(_settle(run, cutter, rules, options, terms, limit, step))
        for values in reversed(settled[0]):
            with suppress(BudgetError):
                if values and not free:
                    return knapsack(values, terms, limit)
        return knapsack_with_removal(graph, settled[0][0] if free else finest, terms, limit, found.removed, free)

    return allocate


def _settle(
    run: Run,
    cutter: Cutter,
    rules: dict[str, Values],
    options: dict[str, list[int]],
    terms: list[Term],
    limit: float,
    step: int,
) -> tuple[Values, Values]:
    """The values of the rule whose network heals best in the contest, and their part within a step of that network's widths;
    without a contest those of the first rule, and nothing.

    What a contest has decided stays decided (`prune/settled.json`): a loop of engines that was killed goes on with the same
    network, although its table has grown meanwhile.
    """
    path, key = run.folder / "prune" / "settled.json", notes.key_of(run, cutter, [step, list(rules)])
    if told := notes.told(path, key):
        run.kept["contest"] = told["contest"]
        values = rules.get(told["contest"]["winner"], rules[next(iter(rules))])
        return values, _near(values, told["widths"], options, step)
    run.kept["contest"] = None
    contestants: dict[str, Widths] = {}
    for name, values in rules.items():
        with suppress(BudgetError):
            widths = knapsack(values, terms, limit)
            if widths not in contestants.values():
                contestants[name] = widths
    first = next(iter(rules))
    if contestants and len(rules) > 1:
        for name, how in _OTHERS.items():
            with suppress(BudgetError):
                contestants[name] = by_rank(
                    cutter.scores, total(terms), limit, how=how, min_keep=run.recipe.prune.min_keep, step=step
                )
    unlike = any(a != b for a, b in pairwise(contestants.values()))
    steps = recovery.contest_steps(run, len(contestants)) if unlike else 0  # a budget wider than dense leaves no choice
    if not steps:
        return rules[first], {}
    loss = recovery.contest(run, cutter.to(PartialState().device), contestants, steps)
    best = min(loss, key=lambda n: loss[n])
    run.kept["contest"] = {"steps": steps, "winner": best, "loss": loss}
    write_json(path, {"key": key, "contest": run.kept["contest"], "widths": contestants[best]})
    run.console.print(
        f"contest of {len(loss)} ways to share the budget out, {steps} steps each: {best} wins ("
        + ", ".join(f"{n} {v:.4f}" for n, v in sorted(loss.items(), key=lambda item: item[1]))
        + ")"
    )
    values = rules.get(best, rules[first])
    return values, _near(values, contestants[best], options, step)


def _near(values: Values, winner: Widths, options: dict[str, list[int]], step: int) -> Values:
    """Values of those of the `options` that are within a step of the winner's widths: a group narrows only if it must, and the less of it the better."""
    most = max(max(v.values()) - min(v.values()) for v in values.values())
    found: Values = {}
    for name, width in winner.items():
        known = sorted(values[name])
        around = {w for w in {*options[name], width} if abs(w - width) <= step}
        found[name] = {
            w: float(np.interp(w, known, [values[name][k] for k in known])) - most * max(0.0, np.log2(width / w))
            for w in sorted(around)
        }
    return found


def sensitivity(run: Run, cutter: Cutter, blocks: Blocks) -> worth.Losses:
    """What cuts cost, each alone, after a short recovery; kept beside the scores as `prune/sensitivity.json`."""
    data, count = load.dataset(run, "train"), run.recipe.prune.sensitivity_images
    chosen = [data[i * len(data) // count][0] for i in range(min(count, len(data)))]
    images = [normalised(np.stack(chosen[n : n + 4])) for n in range(0, len(chosen), 4)]
    settling = [(b, None) for b in images if len(b) > 1]  # a norm over one pooled value has no variance

    def settle(cut: nn.Module) -> None:
        if settling:
            recalibrate(cut, settling, len(settling))

    steps = recovery.steps_each(run, len(cutter.graph.groups))
    cutter = cutter.to(PartialState().device)
    yard = worth.Yardstick(cutter.net, images, load.task(run).apart, settle)
    with Progress("sensitivity", len(worth.SHARES) * len(cutter.graph.groups) + len(blocks), unit="cuts") as bar:
        found = worth.sensitivity(cutter, yard, blocks, bar.move)
    if steps:
        found = recovery.healed(run, cutter, yard, found, steps)
    write_json(run.folder / "prune" / "sensitivity.json", {"recovery_steps": steps} | asdict(found))
    return found
