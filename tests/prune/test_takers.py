"""Where what a constant adds to a layer's output can go: nowhere that anything else reads, too."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgeprune.prune import proof
from edgeprune.prune.compensate import compensated, moments
from edgeprune.prune.groups import find_groups
from edgeprune.prune.plan import make_plan

EXAMPLE = torch.zeros(1, 3, 16, 16)


class Net(nn.Module):
    """a, an activation that is not 0 at 0, then `b` and `n` as `f` calls them, and a head."""

    def __init__(self, f, bias=False):
        super().__init__()
        self.f, self.a = f, nn.Conv2d(3, 8, 3, padding=1)
        self.b, self.d = (nn.Conv2d(8, 8, 3, padding=1, bias=bias) for _ in range(2))
        self.n, self.h = nn.BatchNorm2d(8), nn.Conv2d(8, 5, 1)

    def forward(self, x):
        return self.h(F.relu(self.f(self, torch.sigmoid(self.a(x)))))


def halved(net):
    net = proof._randomised(net, 0)
    graph = find_groups(net, EXAMPLE)
    return net, graph, make_plan(net, graph, {g.name: np.arange(g.size // 2) for g in graph.groups})


NORMS = {
    "once": (lambda net, x: net.n(net.b(x)), {"b": "n"}),
    "of both calls": (lambda net, x: net.n(net.b(x)) + net.n(net.b(1 - x)), {"b": "n"}),
    "again on a map": (lambda net, x: net.n(F.relu(net.n(net.b(x)))), {}),
    "first on a map": (lambda net, x: net.n(net.b(net.n(x))), {}),
    "of one call only": (lambda net, x: net.n(net.b(x)) + net.b(1 - x), {}),
    "whose mean is read": (lambda net, x: net.n(net.b(x)) + net.n.running_mean.view(1, -1, 1, 1), {}),
}


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_that_anything_else_goes_through_is_not_behind_a_layer(name):
    f, wanted = NORMS[name]
    net, graph, plan = halved(Net(f))
    assert graph.norm_behind == wanted
    found = proof.prove(net, graph, plan, EXAMPLE)
    assert max(found.silenced, found.folded) < 1e-5


def shared(net):
    net.d.bias = net.b.bias
    return net


class Unbiased(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight, padding=1)


def without(net):
    net.b = Unbiased(8, 8, 3, padding=1)
    return net


BIASES = {
    "its own": (Net(lambda net, x: net.b(x) + net.d(x), True), {"a", "b", "d", "h"}),
    "of two layers": (shared(Net(lambda net, x: net.b(x) + net.d(x), True)), {"a", "h"}),
    "of a layer that only training has": (shared(Net(lambda net, x: net.b(x), True)), {"a", "h"}),
    "read elsewhere": (Net(lambda net, x: net.b(x) + net.b.bias.view(1, -1, 1, 1), True), {"a", "h"}),
    "never added": (without(Net(lambda net, x: net.b(x))), {"a", "h"}),
}


@pytest.mark.parametrize("name", BIASES)
def test_a_bias_takes_a_constant_only_where_its_layer_alone_adds_it(name):
    net, wanted = BIASES[name]
    net, graph, plan = halved(net)
    assert graph.biased == wanted
    known = moments(net, graph, [torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))])
    made = compensated(net, graph, plan, known)
    assert torch.equal(made.b.bias, net.b.bias) is ("b" not in wanted)
    found = proof.prove(made, graph, plan, EXAMPLE)
    assert max(found.silenced, found.folded) < 1e-5
