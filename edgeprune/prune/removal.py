"""The knapsack, when whole blocks may vanish too (`blocks`): where widths alone do not reach the limit, or depth against
width under one budget.

A block's removal is one decision over several groups, which the knapsack over single groups cannot weigh. Blocks are
therefore tried one after the other, the smallest loss a unit of cost first, the widths of all other groups shared out
anew each time. Where they go because they must, as few go as can be; where they may, a removal stays if the summed value grows. HALP (NeurIPS 2022) lets a layer go when its last channels do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from edgeprune.errors import BudgetError
from edgeprune.prune.blocks import Wiring
from edgeprune.prune.channels import ChannelGraph
from edgeprune.prune.cost import Cost, Term, Widths, total
from edgeprune.prune.knapsack import Values, knapsack

_MISSES = 3  # removals in a row that gain nothing, after which no other is tried
_LOOKS = 6  # blocks that would be enough, of which the best goes
_HOPE = 2.0  # by how much a freed unit of cost may buy more than the next one does


def knapsack_with_removal(
    graph: ChannelGraph, values: Values, terms: Sequence[Term], limit: float, losses: Mapping[str, float],
    free: bool = False,
) -> Widths:  # fmt: skip
    """Widths of the greatest value under the limit; 0 for the groups of blocks that go.

    Args:
        values: as for `knapsack`; 0 where nothing is lost. Groups that can only be 0 have gone before.
        losses: block (named by one of its groups) -> the value that its removal costs.
        free: blocks go wherever the summed value grows; else as few as can be, and only where no widths meet the limit.

    Raises:
        BudgetError: not even without the blocks.
    """
    fault: BudgetError | None = None
    best: Widths | None = None
    try:
        best = knapsack(values, terms, limit)
    except BudgetError as error:
        fault = error
    if best is not None and not free:
        return best
    wiring, price = Wiring(graph), total(terms)
    before = frozenset(n for n, v in values.items() if set(v) == {0})
    blocks = {name: block for name in losses if not (block := wiring.closure(name)) <= before}
    base = best or {n: min(v) for n, v in values.items()}
    saved = {n: price(base) - price({**base, **dict.fromkeys(block, 0)}) for n, block in blocks.items()}
    order = sorted(blocks, key=lambda n: (losses[n] / max(saved[n], 1e-9), -saved[n]))

    def joined(taken: list[str], name: str) -> list[str] | None:
        """These blocks and one more; None where that is no more, or would tear the network apart."""
        tried = [t for t in taken if not blocks[t] < blocks[name]] + [name]
        nested = any(blocks[name] <= blocks[t] for t in taken)
        return None if nested or not wiring.connected(before.union(*(blocks[t] for t in tried))) else tried

    def solved(tried: list[str]) -> tuple[float, Widths]:
        """What is left without these blocks is worth, and the widths."""
        rest = {**values, **{g: {0: 0.0} for t in tried for g in blocks[t]}}
        found = knapsack(rest, terms, limit)
        return sum(rest[n][w] for n, w in found.items()) - sum(losses[t] for t in tried), found

    if best is None and not free:
        return _fewest(order, joined, solved)
    rate = _exchange(values, price, base)
    lost = {n: losses[n] + sum(values[g][base[g]] for g in blocks[n]) for n in order}
    taken: list[str] = []
    most = -float("inf") if best is None else sum(values[n][w] for n, w in best.items())
    missed = 0
    for name in order:
        if (tried := joined(taken, name)) is None:
            continue
        if best is not None and lost[name] > _HOPE * rate * saved[name]:
            continue  # what its time would buy elsewhere is worth less than it
        try:
            worth, found = solved(tried)
        except BudgetError as error:
            fault, taken = error, tried if best is None else taken
            continue
        if worth > most:
            best, most, taken, missed = found, worth, tried, 0
            continue
        missed += 1
        if missed == _MISSES:
            break
    if best is None:
        assert fault is not None
        raise fault
    return best


def _fewest(
    order: Sequence[str],
    joined: Callable[[list[str], str], list[str] | None],
    solved: Callable[[list[str]], tuple[float, Widths]],
) -> Widths:
    """One block more goes at a time: of those that are then enough (the first few in the order) the one that leaves the greatest
    value; where none is, the first.

    Losses of single removals add up to less than all of them together cost, so that the sum of many says little.
    """
    taken: list[str] = []
    while True:
        enough: list[tuple[float, Widths]] = []
        more = [tried for name in order if (tried := joined(taken, name)) is not None]
        for tried in more:
            with suppress(BudgetError):
                enough.append(solved(tried))
            if len(enough) == _LOOKS:
                break
        if enough:
            return max(enough, key=lambda pair: pair[0])[1]
        if not more:
            return solved(taken)[1]  # says what cannot be reached
        taken = more[0]


def _exchange(values: Values, price: Cost, widths: Widths) -> float:
    """The most value that a unit of cost buys at these widths."""
    here, best = price(widths), 0.0
    for name, table in values.items():
        for wider in sorted(w for w in table if w > widths[name])[:3]:
            gain, more = table[wider] - table[widths[name]], price({**widths, name: wider}) - here
            best = max(best, gain / max(more, 1e-9))
    return best
