"""The allocator of latency budgets: the specification's vectors, brute force, staircases, couplings."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgeprune.errors import BudgetError
from edgeprune.prune import worth
from edgeprune.prune.cost import Term, total
from edgeprune.prune.knapsack import by_proxy, knapsack


def prefix(values):
    return {k: float(sum(values[:k])) for k in range(len(values) + 1)}


def by_table(name, times):
    return Term((name,), lambda w: times[w[name]])


A, B = prefix([9, 4, 1]), prefix([8, 7, 2])
TERMS = [by_table("A", [0, 3, 3, 6]), by_table("B", [0, 4, 6, 8])]


@pytest.mark.parametrize(
    ("budget", "value", "widths"),
    [(5, 13, {"A": 2, "B": 0}), (7, 21, {"A": 2, "B": 1}), (9, 28, {"A": 2, "B": 2}), (12, 30, {"A": 2, "B": 3})],
)
def test_vectors_of_the_specification(budget, value, widths):
    """Among them the flat tread: A2 costs what A1 costs and is always taken; blocks are never taken out of order."""
    found = knapsack({"A": A, "B": B}, TERMS, budget)
    assert found == widths
    assert A[found["A"]] + B[found["B"]] == value


@pytest.mark.parametrize(("budget", "widths"), [(5, {"A": 0, "B": 1}), (7, {"A": 2, "B": 0})])
def test_the_trap(budget, widths):
    values = {"A": prefix([5, 4]), "B": prefix([3])}
    assert knapsack(values, [by_table("A", [0, 6, 7]), by_table("B", [0, 4])], budget) == widths


@settings(max_examples=60, deadline=None)
@example(1, 3, 0.9999999999999999)  # the best costs the limit to the last bit but one
@given(st.integers(0, 10**6), st.integers(2, 4), st.floats(0.05, 1.0))
def test_separable_costs_are_solved_exactly(seed, groups, share):
    """Staircases with flat treads and steps that go down, as measured ones do."""
    rng = np.random.default_rng(seed)
    names = [f"g{i}" for i in range(groups)]
    values = {n: prefix(np.sort(rng.random(5))[::-1]) for n in names}
    times = {n: np.maximum(0.05, np.cumsum(rng.integers(-1, 4, 6)) + 0.1 * rng.random(6)) for n in names}
    terms = [by_table(n, times[n]) for n in names]
    smallest = sum(t.min() for t in times.values())
    limit = smallest + share * (sum(t.max() for t in times.values()) - smallest)
    best = max(
        sum(values[n][k] for n, k in zip(names, chosen, strict=True))
        for chosen in itertools.product(range(6), repeat=groups)
        if sum(times[n][k] for n, k in zip(names, chosen, strict=True)) <= limit + 1e-12
    )
    found = knapsack(values, terms, limit)
    assert total(terms)(found) <= limit + 1e-9
    assert sum(values[n][w] for n, w in found.items()) == pytest.approx(best, abs=1e-9)


def test_coupled_costs_are_close_to_brute_force():
    """Chains of convolutions: each term is a product of its input and output widths, on steps."""
    lost = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        names, options = [f"g{i}" for i in range(5)], [16, 32, 48, 64]
        values = {n: dict(zip(options, np.cumsum(rng.random(4) ** 2).tolist(), strict=True)) for n in names}
        rate = rng.random(5) + 0.2
        terms = [Term(("g0",), lambda w, r=rate[0]: r * w["g0"])]
        terms += [
            Term((a, b), lambda w, a=a, b=b, r=r: r * w[a] * np.ceil(w[b] / 32) / 40)
            for (a, b), r in zip(itertools.pairwise(names), rate[1:], strict=True)
        ]
        cost = total(terms)
        limit = cost(dict.fromkeys(names, 64)) * rng.uniform(0.3, 0.8)
        best = max(
            sum(values[n][k] for n, k in zip(names, c, strict=True))
            for c in itertools.product(options, repeat=5)
            if cost(dict(zip(names, c, strict=True))) <= limit
        )
        found = knapsack(values, terms, limit)
        assert cost(found) <= limit
        lost.append(1 - sum(values[n][w] for n, w in found.items()) / best)
    assert np.mean(lost) < 0.01 and np.median(lost) < 1e-9


def test_a_width_inside_a_step_is_never_returned():
    options = worth.candidates({"a": 64, "b": 100}, {"a": 4, "b": 16}, 16)
    assert options == {"a": [16, 32, 48, 64], "b": [16, 32, 48, 64, 80, 96, 100]}  # the whole group may stay as it is
    scores = {n: np.arange(s, dtype=float) for n, s in (("a", 64), ("b", 100))}
    terms = [Term((n,), lambda w, n=n: float(np.ceil(w[n] / 16))) for n in scores]
    for limit in range(3, 12):
        found = knapsack(worth.by_score(scores, options), terms, limit)
        assert all(w % 16 == 0 or w == len(scores[n]) for n, w in found.items())


def test_an_unreachable_limit_names_what_is_reachable():
    with pytest.raises(BudgetError, match="smallest that the widths allow is 4"):
        knapsack({"A": {1: 1.0}, "B": {1: 1.0}}, [by_table("A", [0, 3]), by_table("B", [0, 1])], 3)


def test_spending_a_proxy_does_not_fall_for_what_is_underestimated():
    """Group B's wide layer looks nearly free; who spends channels takes less of it."""
    values = {n: {w: w**0.5 for w in (1, 2, 3, 4)} for n in "AB"}
    told = [by_table("A", [0, 1, 2, 3, 4]), by_table("B", [0, 1, 1.5, 1.6, 1.7])]
    channels = [Term((n,), lambda w, n=n: float(w[n])) for n in "AB"]
    assert knapsack(values, told, 4) == {"A": 2, "B": 4}
    assert by_proxy(values, channels, told, 4) == {"A": 2, "B": 3}
    assert by_proxy(values, channels, told, 100) == {"A": 4, "B": 4}
    with pytest.raises(BudgetError, match="cannot be reached by these widths"):
        by_proxy(values, channels, told, 1.5)


def test_a_step_measured_in_the_loss_orders_the_values():
    """Sensitivity: the group whose cut hurts keeps its width; ties and free channels go by the criterion."""
    scores = {"hurts": np.ones(32), "free": np.ones(32)}
    losses = {"hurts": {32: 0.0, 24: 0.4, 16: 0.9, 8: 2.0, 3: 4.0}, "free": {32: 0.0, 24: 0.0, 16: 0.0, 8: 0.0, 3: 0.0}}
    options = worth.candidates(dict.fromkeys(scores, 32), dict.fromkeys(scores, 8), 8)
    values = worth.by_sensitivity(losses, scores, options)
    terms = [Term((n,), lambda w, n=n: float(w[n])) for n in scores]
    assert knapsack(values, terms, 40) == {"hurts": 32, "free": 8}
    assert knapsack(values, terms, 64) == {"hurts": 32, "free": 32}


def test_curves_that_fall_with_noise_are_made_monotone():
    values = worth.by_sensitivity({"a": {16: 0.0, 12: 0.5, 8: 0.3}}, {"a": np.ones(16)}, {"a": [8, 12, 16]})
    assert values["a"][8] <= values["a"][12] <= values["a"][16]


def test_a_price_on_uneven_cuts_spares_what_seems_to_cost_nothing():
    losses = {"stem": {2: 4.0, 4: 1.0, 8: 0.0}, "inner": {2: 0.02, 4: 0.01, 8: 0.0}}
    values = {n: {k: -v for k, v in c.items()} for n, c in losses.items()}
    terms = [Term((n,), lambda w, n=n: float(w[n])) for n in losses]
    assert knapsack(values, terms, 10) == {"stem": 8, "inner": 2}
    assert knapsack(worth.evened(values, losses, 0.0), terms, 10) == {"stem": 8, "inner": 2}
    assert knapsack(worth.evened(values, losses, 3.0), terms, 10) == {"stem": 4, "inner": 4}
    price = 3.0 * (1.0 + 0.01) / 2  # at half width; log2 is one there
    assert worth.evened(values, losses, 3.0)["stem"][4] == pytest.approx(-1.0 - price)
    assert worth.evened(values, losses, 3.0)["stem"][8] == 0 and worth.evened({}, {}, 1.0) == {}


def test_narrower_than_any_measured_width_costs_on():
    values = worth.by_sensitivity({"a": {64: 0.0, 16: 0.5, 8: 0.9}}, {"a": np.ones(64)}, {"a": [2, 8, 64]})
    assert values["a"][2] == pytest.approx(-0.9 - 6 * 0.05, abs=1e-3)


def test_summed_scores_below_zero_never_make_a_channel_worth_losing():
    scores = {n: -np.random.default_rng(i).random(64) for i, n in enumerate("abc")}
    options = dict.fromkeys(scores, [8, 16, 24, 32, 40, 48, 56, 64])
    terms = [Term((n,), lambda w, n=n: float(w[n])) for n in scores]
    assert sum(knapsack(worth.by_sum(scores, options), terms, 96).values()) == 96
