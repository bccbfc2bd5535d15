"""Structured Optimal Brain Surgeon: its errors against least squares done outright, and its order."""

import numpy as np
import pytest
import torch
from torch import nn

from edgeprune.prune.compensate import Moments
from edgeprune.prune.criteria import obs
from edgeprune.prune.criteria.obs import OBS, Part, eliminate
from edgeprune.prune.groups import find_groups
from tests.prune.scoring import scored

X = torch.zeros(1, 3, 16, 16)


def drawn(channels: int, outputs: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Correlated covariance (C, C) and weights (outputs, C)."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(channels, channels, generator=generator, dtype=torch.float64)
    return mix @ mix.T / channels + 0.1 * torch.eye(channels), torch.randn(
        outputs, channels, generator=generator, dtype=torch.float64
    )


def part(covariance: torch.Tensor, weight: torch.Tensor, index: torch.Tensor) -> Part:
    return Part(torch.linalg.inv(covariance), weight.T @ weight, index)


def lost(covariance: torch.Tensor, weight: torch.Tensor, gone: list[int]) -> float:
    """What the best weights on the inputs that stay leave of the output's variance, by the normal equations."""
    stay = [n for n in range(len(covariance)) if n not in gone]
    best = torch.linalg.solve(covariance[stay][:, stay], covariance[stay] @ weight.T)  # (stay, outputs)
    made = best.T @ covariance[stay][:, stay] @ best
    return float((weight @ covariance @ weight.T - made).trace())


@pytest.mark.parametrize("each", [1, 2])
def test_errors_are_those_of_least_squares_and_stay_so_behind_removals(each):
    covariance, weight = drawn(12)
    index = torch.randperm(12, generator=torch.Generator().manual_seed(1)).reshape(-1, each)
    p, gone, before = part(covariance, weight, index), [], 0.0
    for unit in (4, 0, 2):
        errors = p.errors()
        for other in range(len(index)):
            inputs = index[other].tolist()
            if not set(inputs) & set(gone):
                assert errors[other] == pytest.approx(lost(covariance, weight, gone + inputs) - before, rel=1e-8)
        p.without(np.array([unit]))
        gone += index[unit].tolist()
        before = lost(covariance, weight, gone)


def test_two_units_at_once_are_the_same_as_one_after_the_other():
    a, b = (part(*drawn(9), torch.arange(9)[:, None]) for _ in range(2))
    a.without(np.array([7, 3]))
    b.without(np.array([3])), b.without(np.array([7]))
    torch.testing.assert_close(a.inverse, b.inverse)
    torch.testing.assert_close(a.gram, b.gram)


def test_a_part_of_the_units_sees_its_own_errors():
    p = part(*drawn(10), torch.arange(10).reshape(5, 2))
    np.testing.assert_allclose(p.only(np.array([3, 1])).errors(), p.errors()[[3, 1]])


def test_of_two_channels_that_say_the_same_one_goes_first_and_the_other_late():
    """A channel's own size does not save it: what the others cannot say does."""
    signal = torch.randn(4, 2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    maps = torch.cat([3 * signal[:1], signal, 0.01 * torch.randn(1, 2000, dtype=torch.float64)])
    covariance = maps @ maps.T / 2000 + 1e-6 * torch.eye(6)
    score = eliminate([part(covariance, torch.ones(1, 6, dtype=torch.float64), torch.arange(6)[:, None])], 6)
    first = set(np.argsort(score)[:2])
    assert 5 in first and len(first & {0, 1}) == 1
    assert np.argmax(score) in (0, 1), "the one that is left carries four parts of the sum"
    assert len(np.unique(score)) == 6


def test_wide_groups_lose_several_at_a_time_and_nearly_as_well(monkeypatch):
    covariance, weight = drawn(64, 16)
    index = torch.arange(64)[:, None]
    one = eliminate([part(covariance, weight, index)], 64)
    monkeypatch.setattr(obs, "BLOCKS", 16)
    four = eliminate([part(covariance, weight, index)], 64)
    gone = [np.argsort(s)[:32].tolist() for s in (one, four)]
    assert lost(covariance, weight, gone[1]) <= 1.15 * lost(covariance, weight, gone[0])


def test_moments_of_what_is_read_and_gradients_of_what_is_computed():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    graph = find_groups(net, X)
    criterion = OBS()
    scored(criterion, net, graph, 2)
    assert criterion._moments.keys() == {"2"} == criterion._squares.keys()
    assert isinstance(criterion._moments["2"], Moments) and criterion._squares["2"].shape == (4,)
    with torch.no_grad():
        net[2].weight[:, 5] = 0
        net[2].weight[:, 6] = net[2].weight[:, 7]
    found = scored(OBS(fisher=False), net, graph, 2)["0"]
    assert np.argmin(found) == 5 and found[5] == 0, "what nobody reads is lost by nobody"
    assert not OBS(fisher=False).needs_gradient and OBS().needs_gradient
