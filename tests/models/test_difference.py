import pytest
import torch

from edgeprune.models.difference import apart, farthest

INF, NAN = torch.inf, torch.nan


@pytest.mark.parametrize(
    ("found", "wanted", "difference"),
    [
        ([1.0, 2.0], [1.0, 4.0], 0.5),
        ([-INF, 2.0], [-INF, 4.0], 0.5),
        ([-INF, INF], [-INF, INF], 0.0),
        ([NAN, 1.0], [NAN, 1.0], 0.0),
        ([0.0, 2.0], [-INF, 4.0], INF),
        ([NAN, 2.0], [0.0, 4.0], INF),
        ([1.0], [1.0, 1.0], INF),
        ([], [], 0.0),
        ([3, 4], [3, 8], 0.5),
        ([True, False], [True, True], 1.0),
    ],
)
def test_the_difference_is_of_the_largest_finite_value(found, wanted, difference):
    assert apart(torch.tensor(found), torch.tensor(wanted)) == difference


def test_more_answers_of_the_one_than_of_the_other_are_no_match():
    assert farthest([torch.ones(1)], []) == INF and farthest([], []) == 0.0
