"""Which channels of a layer share the least: the cardinality-constrained clique of SIRFP (Wu et al., AAAI 2025).

On the complete graph of C channels with edge weights -r_ij (r = redundancy >= 0), keeping the K channels of least total
pairwise redundancy is MEWCP, NP-hard. `eliminate` is the paper's greedy EHGP in O(C²): remove the channel whose sum of
redundancies to the living ones is largest, subtract its row, repeat.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np


def eliminate(redundancy: np.ndarray, diagonal: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Greedy elimination of every channel.

    Args:
        redundancy: (C, C) symmetric, non-negative.
        diagonal: count a channel's redundancy to itself (the released code); the paper's Algorithm 1 does not.

    Returns:
        (order, q): channels in removal order, and for each *channel* its sum at the moment of removal. q is
        non-increasing along the order, so thresholding -q removes a prefix of it.
    """
    r = np.array(redundancy, dtype=np.float64)
    if not diagonal:
        np.fill_diagonal(r, 0.0)
    count = len(r)
    sums = r.sum(axis=1)
    order, q = np.empty(count, dtype=np.int64), np.empty(count)
    for step in range(count):
        worst = int(sums.argmax())  # ties: the lowest index
        order[step], q[worst] = worst, max(sums[worst], 0.0)
        sums -= r[worst]
        sums[worst] = -np.inf
    return order, q


def keep_greedy(redundancy: np.ndarray, keep: int) -> np.ndarray:
    """The `keep` channels that EHGP leaves, sorted."""
    order, _ = eliminate(redundancy)
    return np.sort(order[len(order) - keep :])


def cost(redundancy: np.ndarray, kept: np.ndarray) -> float:
    """Total pairwise redundancy among the kept channels."""
    part = np.asarray(redundancy, dtype=np.float64)[np.ix_(kept, kept)]
    return float(np.triu(part, 1).sum())


def keep_exact(redundancy: np.ndarray, keep: int) -> np.ndarray:
    """The optimum by enumeration, for small C: what the greedy is tested against."""
    best = min(combinations(range(len(redundancy)), keep), key=lambda k: cost(redundancy, np.array(k, dtype=np.int64)))
    return np.array(best, dtype=np.int64)


def improve_by_swaps(redundancy: np.ndarray, kept: np.ndarray, rounds: int = 1000) -> np.ndarray:
    """Exchange a kept for a removed channel while that lowers the cost (ours; the best exchange each round)."""
    r = np.array(redundancy, dtype=np.float64)
    np.fill_diagonal(r, 0.0)
    inside = np.zeros(len(r), dtype=bool)
    inside[kept] = True
    for _ in range(rounds):
        pull = r[:, inside].sum(axis=1)
        a, b = np.flatnonzero(inside), np.flatnonzero(~inside)
        if not len(a) or not len(b):
            break
        change = pull[b][None, :] - pull[a][:, None] - r[np.ix_(a, b)]
        i, j = np.unravel_index(int(change.argmin()), change.shape)
        if change[i, j] >= -1e-12:
            break
        inside[a[i]], inside[b[j]] = False, True
    return np.flatnonzero(inside)
