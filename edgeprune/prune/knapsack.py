"""The most value under a cost limit: a multiple-choice knapsack over each group's candidate widths.

A cost is a list of terms, each of few groups (a convolution's time depends on the group that it reads and the one that it
writes). Where every term has one group the answer is within about 1 % of the optimum: fronts of undominated (cost, value) pairs are merged group by
group, so staircases, flat treads and negative steps need no special care. Couplings are handled by freezing the
neighbours, solving, and solving again around the answer, with the true cost as the judge; exchanges between two groups
polish what comes out. HALP (Shen et al., NeurIPS 2022) solves the same problem block by block with frozen input widths.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeprune.errors import OutOfReach
from edgeprune.prune.cost import Term, Widths

Values = dict[str, dict[int, float]]  # group -> candidate width -> value of keeping so many
_FRONT = 500  # pairs that a front may hold; more are thinned to the best of each cost interval
_ROUNDING = 1e-11
_OPTIONS = 17  # candidates of a group that one solution looks at; the next one looks closer


class Terms:
    """The sum of the terms, cheap to ask for one changed width."""

    def __init__(self, terms: Sequence[Term], names: Sequence[str]) -> None:
        self.fixed = sum(t.cost({}) for t in terms if not t.groups)
        self.terms = [t for t in terms if t.groups]
        self.of = {name: [t for t in self.terms if name in t.groups] for name in names}

    def total(self, widths: Widths) -> float:
        return self.fixed + sum(t.cost(widths) for t in self.terms)

    def around(self, widths: Widths, name: str) -> float:
        """What hangs on one group."""
        return sum(t.cost(widths) for t in self.of[name])


def knapsack(values: Values, terms: Sequence[Term], limit: float) -> Widths:
    """Candidate widths of the greatest summed value whose cost is at most `limit`.

    Raises:
        OutOfReach: no candidate fits; the message gives the smallest cost.
    """
    cost = Terms(terms, list(values))
    best = _cheapest(values, cost)
    smallest = cost.total(best)
    limit += _ROUNDING * max(1.0, abs(limit))  # sums of floats hang on their order
    if smallest > limit:
        raise OutOfReach(limit, smallest)
    for start in (best, _even(values, cost, limit)):
        found = _solve(values, cost, limit, start)
        if _worth(values, found) > _worth(values, best):
            best = found
    return _polish(values, cost, limit, best)


def by_proxy(values: Values, proxy: Sequence[Term], terms: Sequence[Term], limit: float, turns: int = 12) -> Widths:
    """The most that a knapsack over another cost (MACs) is worth within `limit` of the real one.

    Where the real cost is an estimate, a knapsack over it takes what is underestimated; one over a proxy does not.

    Raises:
        OutOfReach: none of the proxy's answers fits.
    """
    cost, price = Terms(terms, list(values)), Terms(proxy, list(values))
    whole = {n: max(v) for n, v in values.items()}
    best, low, high = None, price.total(_cheapest(values, price)), price.total(whole)
    share = high
    for _ in range(turns):
        found = knapsack(values, proxy, share)
        if cost.total(found) > limit:
            high = share
        elif share == high:
            return found
        else:
            low = share
            best = found if best is None or _worth(values, found) > _worth(values, best) else best
        share = (low + high) / 2
    if best is None:
        raise OutOfReach(limit)
    return best


def _worth(values: Values, widths: Widths) -> float:
    return sum(values[n][w] for n, w in widths.items())


def _cheapest(values: Values, cost: Terms) -> Widths:
    """The least cost that single changes reach; narrower is nearly always cheaper."""
    widths = {n: min(v) for n, v in values.items()}
    for _ in range(3):
        before = dict(widths)
        for name, options in values.items():
            widths[name] = min(sorted(options), key=lambda w, n=name: cost.around({**widths, n: w}, n))
        if widths == before:
            break
    return widths


def _even(values: Values, cost: Terms, limit: float) -> Widths:
    """The widest equal share of every group that fits."""
    best = _cheapest(values, cost)
    for share in np.linspace(0, 1, 41):
        widths = {n: _nearest(sorted(v), share * max(v)) for n, v in values.items()}
        if cost.total(widths) <= limit:
            best = widths
    return best


def _nearest(options: list[int], wanted: float) -> int:
    return min(options, key=lambda w: (abs(w - wanted), w))


def _solve(values: Values, cost: Terms, limit: float, start: Widths) -> Widths:
    """Freeze, solve exactly, move; the step is shortened when the true cost of a move is over the limit."""
    best, now = dict(start), dict(start)
    reach = max(len(v) for v in values.values())
    for _ in range(10):
        here = cost.total(now)
        options = []
        for name, table in values.items():
            ordered = sorted(table)
            place, base = ordered.index(now[name]), cost.around(now, name)
            near = _spread(ordered, place, reach)
            options.append([(cost.around({**now, name: w}, name) - base, table[w], w) for w in near])
        room, moved = limit - here, None
        for _ in range(6):  # frozen neighbours misjudge; aim lower until the true cost fits
            picked = _exact(options, room)
            if picked is None:
                break
            widths = dict(zip(values, picked, strict=True))
            over = cost.total(widths) - limit
            if over <= 0:
                moved = widths
                break
            room -= 1.1 * over
        if moved is None or moved == now or _worth(values, moved) <= _worth(values, best):
            if reach == 1:
                break
            reach = max(1, reach // 3)
        if moved is not None:
            now = moved
            if _worth(values, moved) > _worth(values, best):
                best = moved
    return best


def _exact(options: list[list[tuple[float, float, int]]], room: float) -> list[int] | None:
    """One option of each group, the summed cost at most `room`, the summed value greatest; None where nothing fits."""
    costs, worths = np.zeros(1), np.zeros(1)
    least = [min(c for c, _, _ in group) for group in options]
    ahead = np.append(np.cumsum(least[::-1])[::-1][1:], 0.0)  # the least that the groups to come will cost
    trail = []
    for group, later in zip(options, ahead, strict=True):
        c = (costs[:, None] + np.array([o[0] for o in group])).ravel()
        v = (worths[:, None] + np.array([o[1] for o in group])).ravel()
        fits = np.flatnonzero(c + later <= room + 1e-9 * max(1.0, abs(room)))
        if len(fits) == 0:
            return None
        order = fits[np.lexsort((-v[fits], c[fits]))]
        rising = np.maximum.accumulate(v[order])
        kept = order[np.concatenate([[True], v[order][1:] > rising[:-1]])]
        if len(kept) > _FRONT:
            bins = np.linspace(c[kept[0]], c[kept[-1]], _FRONT)
            places = np.searchsorted(c[kept], bins, side="right") - 1
            kept = kept[np.unique(places)]  # the last of an interval holds its greatest value
        trail.append((kept // len(group), kept % len(group)))
        costs, worths = c[kept], v[kept]
    place, picked = int(np.argmax(worths)), []
    for (parents, choices), group in zip(reversed(trail), reversed(options), strict=True):
        picked.append(group[int(choices[place])][2])
        place = int(parents[place])
    return picked[::-1]


def _spread(ordered: list[int], place: int, reach: int) -> list[int]:
    """At most `_OPTIONS` candidates within `reach` places, the present one among them."""
    first, last = max(0, place - reach), min(len(ordered) - 1, place + reach)
    places = {place, *np.linspace(first, last, min(_OPTIONS, last - first + 1)).round().astype(int).tolist()}
    return [ordered[i] for i in sorted(places)]


def _polish(values: Values, cost: Terms, limit: float, widths: Widths) -> Widths:
    """Change one group, or two against each other, as long as the value grows and the true cost fits."""
    widths, ordered = dict(widths), {n: sorted(v) for n, v in values.items()}
    for _ in range(100):
        room = limit - cost.total(widths)
        moves = [(n, *m) for n in values for m in _moves(values, cost, widths, n, ordered[n])]
        moves.append(("", 0.0, 0.0, 0))  # no second change
        costs, gains = (np.array([m[k] for m in moves]) for k in (1, 2))
        fits = costs[:, None] + costs[None, :] <= room + 1e-9 + 0.02 * np.abs(costs)[:, None]
        pairs = np.where(fits, gains[:, None] + gains[None, :], -np.inf)
        better = None
        for place in np.argsort(-pairs, axis=None)[:40]:
            a, b = (moves[i] for i in np.unravel_index(place, pairs.shape))
            if pairs.flat[place] <= 1e-12:
                break
            tried = {**widths, **{m[0]: m[3] for m in (a, b) if m[0]}}
            if (a[0] != b[0]) and cost.total(tried) <= limit:
                better = tried
                break
        if better is None:
            break
        widths = better
    return widths


def _moves(
    values: Values, cost: Terms, widths: Widths, name: str, options: list[int]
) -> list[tuple[float, float, int]]:
    """(change of cost, change of value, width) of the candidates beside the present one."""
    place, base, worth = options.index(widths[name]), cost.around(widths, name), values[name][widths[name]]
    near = [w for w in options[max(0, place - 3) : place + 4] if w != widths[name]]
    return [(cost.around({**widths, name: w}, name) - base, values[name][w] - worth, w) for w in near]
