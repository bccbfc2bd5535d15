"""The contest: which way to share the budget out leaves the network that heals best?"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from accelerate import PartialState

from edgeprune.errors import BudgetError
from edgeprune.prune import cost
from edgeprune.prune.allocate import allocate as by_rank
from edgeprune.prune.cost import Term, Widths, total
from edgeprune.prune.cutter import Cutter
from edgeprune.prune.knapsack import Values, by_proxy, knapsack
from edgeprune.stages import notes, recovery
from edgeprune.stages.run import Run

OTHERS = {"even cut": "uniform", "all channels compete": "global"}  # ways that know no measured loss
_LEVEL = 1.05  # losses that are within it cannot be told apart
_FEWER, _MANY = ", fewer blocks", ", as many blocks gone as pay"
_AROUND = 0.3  # of its width may a group move from the winner: a step of 8 is half of 16 and nothing of 216
_TURNS = 4  # in which a contestant's convolutions are measured

Exactly = Callable[[Widths], list[Term]]  # the terms, once they are exact for these widths


@dataclass(frozen=True)
class Fields:
    """Who competes.

    Args:
        rules: name -> what widths are worth.
        by_macs: the same, for ways that spend MACs and not milliseconds: they do not like what a table underestimates.
        options: group -> all its widths on the device's step.
        fewer: (values, terms, limit, as many as pay?) -> widths, 0 for those of blocks that go; None: none may.
        free: blocks may go where widths alone meet the limit, too.
    """

    rules: dict[str, Values]
    by_macs: dict[str, Values]
    options: dict[str, list[int]]
    fewer: Callable[[Values, list[Term], float, bool], Widths] | None
    free: bool


def settle(
    run: Run, cutter: Cutter, fields: Fields, terms: list[Term], limit: float, step: int, exactly: Exactly | None
) -> tuple[Values, Values]:
    """The values of the rule whose network heals best in the contest, and their part around that network's widths;
    without a contest those of the first rule, and nothing.

    What a contest has decided stays decided (`prune/settled.json`): a loop of engines that was killed goes on with the same
    network, although its table has grown meanwhile.
    """
    rules, first = fields.rules, next(iter(fields.rules))
    path, key = notes.home(run) / "settled.json", notes.key_of(run, cutter, [step, list(rules)])
    if told := notes.told(path, key):
        run.kept["contest"] = told["contest"]
        recovery.count(run, told["contest"]["steps"] * len(told["contest"]["loss"]))
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
            enter(name + _FEWER, lambda t, v=values, f=fields.fewer: f(v, t, limit, fields.free))
        enter(first + _MANY, lambda t, f=fields.fewer: f(rules[first], t, limit, True))
    if fit and len(rules) > 1:
        edges = cutter.graph.steps(step)
        scores, least, macs = cutter.scores, run.recipe.prune.min_keep, cost.macs(cutter.graph)
        for name, values in fields.by_macs.items():
            enter(name, lambda t, v=values: by_proxy(v, macs, t, limit))
        for name, how in OTHERS.items():
            enter(name, lambda t, h=how: by_rank(scores, total(t), limit, how=h, min_keep=least, step=edges))
    unlike = any(a != b for a, b in pairwise(contestants.values()))
    steps = recovery.contest_steps(run, len(contestants)) if unlike else 0  # a budget wider than dense leaves no choice
    if not steps:
        return rules[first], {}
    loss = recovery.contest(run, cutter.to(PartialState().device), contestants, steps)
    best = _winner(loss, contestants)
    run.kept["contest"] = {"steps": steps, "winner": best, "loss": loss}
    notes.keep(path, {"key": key, "contest": run.kept["contest"], "widths": contestants[best]})
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
    values = fields.rules.get(winner.removesuffix(_FEWER).removesuffix(_MANY), fields.rules[next(iter(fields.rules))])
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
