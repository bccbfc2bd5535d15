"""How many channels each group keeps under a budget.

`global`: all scores compete; the lowest go first until the cost is met (SIRFP, CAP: one threshold for all layers, with a
floor a layer). `uniform`: every group keeps the same share. Widths fall on the target's step; what rounding leaves of
the budget is given back, step by step: `global` to the group where a step's score is worth most for its cost, `uniform` to the
one that has kept the least share of its channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from edgeprune.errors import OutOfReach
from edgeprune.prune.cost import Cost, Widths

Scores = dict[str, np.ndarray]
Steps = int | Mapping[str, int]  # of all groups, or group -> its own (`ChannelGraph.steps`)


def step_of(step: Steps, group: str) -> int:
    """Units."""
    return step if isinstance(step, int) else step[group]


def allocate(
    scores: Scores, cost: Cost, limit: float, *, how: str = "global", min_keep: float = 0.02, step: Steps = 1
) -> Widths:
    """Widths whose cost is at most `limit`, as close to it as the step allows.

    Args:
        scores: group -> (units,) score, higher = keep, comparable between groups for `how="global"`.
        min_keep: the share of each group that always stays (at least one unit).
        step: widths are multiples of it where a group is wide enough; 1 gives budgets to within a channel.

    Raises:
        OutOfReach: the limit cannot be reached; the message gives the smallest cost.
    """
    least = floors(scores, min_keep, step)
    smallest = cost(least)
    if smallest > limit:
        channels = step if isinstance(step, int) else max(step.values())
        raise OutOfReach(
            limit, smallest, f"min_keep {min_keep:g} and steps of {channels}", "lower prune.min_keep or prune.step"
        )
    widths_at = _ALLOCATORS[how](scores, least)
    low, high = 0, sum(len(s) for s in scores.values())
    while low < high:  # the largest count of kept units whose rounded widths fit
        middle = (low + high + 1) // 2
        if cost(_rounded(widths_at(middle), scores, least, step)) <= limit:
            low = middle
        else:
            high = middle - 1
    return _fill(_rounded(widths_at(low), scores, least, step), scores, cost, limit, step, even=how == "uniform")


def select(scores: Scores, widths: Widths) -> dict[str, np.ndarray]:
    """The kept units: the highest scores of each group, ties to the lower index."""
    return {n: np.sort(np.argsort(-s, kind="stable")[: widths[n]]) for n, s in scores.items()}


def floors(scores: Scores, share: float, step: Steps) -> Widths:
    """The least width of each group: its share of channels, on the step."""
    return {n: _floor(len(s), share, step_of(step, n)) for n, s in scores.items()}


def _floor(size: int, share: float, step: int) -> int:
    least = max(1, math.ceil(size * share))
    return min(size, math.ceil(least / step) * step) if step > 1 else least


def _global(scores: Scores, floors: Widths) -> Callable[[int], Widths]:
    names = list(scores)
    values, owners = [], []
    for number, name in enumerate(names):
        ordered = np.sort(scores[name])[::-1]
        ordered = np.concatenate([np.full(floors[name], np.inf), ordered[floors[name] :]])  # the floor goes first
        values.append(ordered)
        owners.append(np.full(len(ordered), number))
    rank = np.argsort(-np.concatenate(values), kind="stable")
    owner = np.concatenate(owners)[rank]

    def at(count: int) -> Widths:
        kept = np.bincount(owner[:count], minlength=len(names))
        return {n: max(int(k), floors[n]) for n, k in zip(names, kept, strict=True)}

    return at


def _uniform(scores: Scores, floors: Widths) -> Callable[[int], Widths]:
    total = sum(len(s) for s in scores.values())

    def at(count: int) -> Widths:
        return {n: max(floors[n], round(len(s) * count / total)) for n, s in scores.items()}

    return at


_ALLOCATORS: dict[str, Callable[[Scores, Widths], Callable[[int], Widths]]] = {"global": _global, "uniform": _uniform}


def _rounded(widths: Widths, scores: Scores, floors: Widths, step: Steps) -> Widths:
    """Down to the step (never under the floor); a full group keeps its own width."""
    steps = {n: step_of(step, n) for n in widths}
    return {n: w if w == len(scores[n]) else max(floors[n], w // steps[n] * steps[n]) for n, w in widths.items()}


def _fill(widths: Widths, scores: Scores, cost: Cost, limit: float, step: Steps, even: bool) -> Widths:
    """Give back what is left of the budget: the step with the most score a cost (`even`: of the group cut the most), as long as one fits."""
    widths = dict(widths)
    lowest = min(float(s.min()) for s in scores.values())  # scores may be negative; a channel is worth its lead
    ordered = {n: np.sort(s)[::-1] - lowest for n, s in scores.items()}
    now = cost(widths)
    open_ = {n for n, s in scores.items() if widths[n] < len(s)}
    while open_:
        best: tuple[tuple[float, float], str, int, float] | None = None
        for name in sorted(open_):  # a copy: names that no longer fit are dropped
            edge = step_of(step, name)
            wider = min(len(scores[name]), (widths[name] // edge + 1) * edge)
            then = cost({**widths, name: wider})
            if then > limit:
                open_.discard(name)  # costs only grow while the budget is filled
                continue
            gain = float(ordered[name][widths[name] : wider].sum()) / max(then - now, 1e-9)
            rank = (-widths[name] / len(scores[name]) if even else 0.0, gain)
            if best is None or rank > best[0]:
                best = (rank, name, wider, then)
        if best is None:
            break
        _, name, widths[name], now = best
        if widths[name] == len(scores[name]):
            open_.discard(name)
    return widths
