import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.errors import BudgetError
from edgeprune.prune import cost
from edgeprune.prune.allocate import allocate, select
from edgeprune.prune.groups import find_groups
from tests.prune import nets

GRAPH = find_groups(nets.Residual(), torch.zeros(1, 3, 32, 32))


def scores(seed):
    rng = np.random.default_rng(seed)
    return {g.name: rng.normal(size=g.size) for g in GRAPH.groups}


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    share=st.floats(0.2, 1.0),
    kind=st.sampled_from(["macs", "params", "channels"]),
    how=st.sampled_from(["global", "uniform"]),
    step=st.sampled_from([1, 4, 8]),
)
def test_budget_is_kept_and_nothing_more_fits(seed, share, kind, how, step):
    price, s = cost.total(cost.COSTS[kind](GRAPH)), scores(seed)
    limit = share * price(GRAPH.widths())
    try:
        widths = allocate(s, price, limit, how=how, min_keep=0.02, step=step)
    except BudgetError:
        assert price(dict.fromkeys(s, step)) > limit
        return
    assert price(widths) <= limit
    for name, width in widths.items():
        assert width % step == 0 or width == len(s[name])
        if width < len(s[name]):
            assert price({**widths, name: min(len(s[name]), width + step)}) > limit


def test_the_lowest_scores_go_and_the_floor_stays():
    s = {"a.0": np.arange(16) / 100, "b.0": np.arange(24) + 1.0}
    widths = allocate(s, cost.total(cost.channels(GRAPH)), 26, min_keep=0.10)
    assert widths == {"a.0": 2, "b.0": 24}
    assert select(s, widths)["a.0"].tolist() == [14, 15]


def test_a_budget_out_of_reach_says_the_smallest():
    with pytest.raises(BudgetError, match="smallest"):
        allocate(scores(0), cost.total(cost.channels(GRAPH)), 1)


def test_an_even_share_stays_even_where_rounding_leaves_much_of_the_budget():
    """Just under a half, all widths round down; by scores the rest of the budget would go to one group alone."""
    s = {"wide": np.full(256, 9.0), "middle": np.full(128, 2.0), "narrow": np.full(64, 1.0)}
    widths = allocate(s, lambda w: float(sum(w.values())), 223, how="uniform", step=16)
    assert widths == {"wide": 112, "middle": 64, "narrow": 32}
    uneven = allocate(s, lambda w: float(sum(w.values())), 223, how="global", step=16)
    assert uneven["wide"] == 176 and uneven["narrow"] == 16
