"""Parts of a forward that run in another way (no_grad, autocast, checkpoint), and parameters and weights that are used by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import nn

from edgeprune.prune.groups import find_groups
from edgeprune.prune.plan import make_plan
from edgeprune.prune.proof import prove
from edgeprune.prune.surgery import shrink

EXAMPLE = torch.zeros(1, 3, 16, 16)


class Applied(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f, self.a, self.b = f, nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head, self.norm, self.line = nn.Conv2d(8, 5, 1), nn.BatchNorm2d(8), nn.Linear(8, 8)
        self.g, self.map = nn.Parameter(torch.linspace(0.5, 1.5, 8)), nn.Parameter(torch.randn(1, 8, 4, 4))
        self.deep = nn.Parameter(torch.randn(8, 256))

    def forward(self, x):
        return self.head(F.relu(self.f(self, F.relu(self.a(x)))))


def proven(net):
    """Group -> size, after the proof of a cut to half."""
    torch.manual_seed(0)
    graph = find_groups(net, EXAMPLE)
    plan = make_plan(net, graph, {g.name: np.arange(g.size // 2, g.size) for g in graph.groups})
    prove(net, graph, plan, EXAMPLE)
    return {g.name: g.size for g in graph.groups}, graph


def no_grad(net, x):
    with torch.no_grad():
        scale = net.g.view(1, -1, 1, 1) * 2
    return net.b(x) * scale


def autocast(net, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = net.b(x)
        with torch.autocast("cpu", enabled=False):
            y = F.relu(net.norm(y.float()))
    return y.float()


def checkpointed(net, x):
    return torch.utils.checkpoint.checkpoint(lambda y: net.b(F.relu(y)), x, use_reentrant=True)


@pytest.mark.parametrize("region", [no_grad, autocast, checkpointed], ids=lambda f: f.__name__)
def test_regions_are_followed(region):
    assert proven(Applied(region))[0] == {"a": 8, "b": 8}


FORMS = {
    "view": lambda net, x: x * net.g.view(1, -1, 1, 1),
    "unsqueeze": lambda net, x: net.g.unsqueeze(-1).unsqueeze(-1) * x,
    "index": lambda net, x: x * net.g[None, :, None, None],
    "reshape, expand": lambda net, x: x * net.g.reshape(-1, 1, 1).expand(-1, *x.shape[2:]),
    "permute": lambda net, x: x + net.g.view(1, 1, 1, -1).permute(0, 3, 1, 2),
    "repeat": lambda net, x: x * net.g.view(1, -1, 1, 1).repeat(len(x), 1, 1, 1),
    "function": lambda net, x: x * (torch.sigmoid(net.g) + 1)[:, None, None],
    "tokens": lambda net, x: (x.permute(0, 2, 3, 1) * net.g.squeeze()).permute(0, 3, 1, 2),
    "resized map": lambda net, x: x + F.interpolate(net.map, size=x.shape[2:], mode="bilinear"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_parameter_that_is_reshaped_goes_with_its_channels(form):
    net = Applied(lambda net, x: x + FORMS[form](net, net.b(x)))
    groups, graph = proven(net)
    assert groups == {"a": 8} and graph.groups[0].producers == ["a", "b"]


def test_a_parameter_that_cannot_be_followed_is_named():
    graph = proven(Applied(lambda net, x: net.b(x) + net.deep.reshape(1, 8, 16, 16)))[1]
    assert graph.unprunable["b"] == "a parameter that is reshaped"
    assert [g.name for g in graph.groups] == ["a"]


def test_a_weight_that_is_computed_from_a_parameter_stays():
    graph = proven(Applied(lambda net, x: F.conv2d(x, net.b.weight * net.g.view(-1, 1, 1, 1), padding=1)))[1]
    assert graph.groups == [] and graph.unprunable["a"] == "a weight that is computed"


BY_HAND = {
    "convolution": lambda net, x: F.conv2d(x, net.b.weight, padding=1),
    "norm": lambda net, x: F.batch_norm(
        net.b(x), net.norm.running_mean, net.norm.running_var, net.norm.weight, net.norm.bias
    ),
    "linear": lambda net, x: F.linear(x.permute(0, 2, 3, 1), net.line.weight, net.line.bias).permute(0, 3, 1, 2),
}


@pytest.mark.parametrize("kind", BY_HAND)
def test_weights_of_modules_that_are_used_by_hand_are_followed(kind):
    assert proven(Applied(lambda net, x: torch.sigmoid(BY_HAND[kind](net, torch.sigmoid(x)))))[0] == {
        "a": 8,
        "line" if kind == "linear" else "b": 8,
    }


def test_one_weight_in_two_layers_is_cut_once():
    net = Applied(lambda net, x: torch.sigmoid(net.again(torch.sigmoid(net.b(x)))))
    net.again = nn.Conv2d(8, 8, 3, padding=1)
    net.again.weight = net.b.weight
    groups, graph = proven(net)
    assert groups == {"a": 8} and "again.weight" not in graph.places
    small = shrink(net, make_plan(net, graph, {"a": np.arange(3)}))
    assert small.again.weight is small.b.weight and small.again.bias is not small.b.bias
    assert small.again.bias.shape == (3,)
