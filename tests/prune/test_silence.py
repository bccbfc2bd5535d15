"""What a removed channel emits: f(0), which need not be 0, need not be constant, and may meet a border."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgeprune.errors import SurgeryError
from edgeprune.prune import proof
from edgeprune.prune.groups import find_groups
from edgeprune.prune.plan import make_plan
from edgeprune.prune.surgery import fold_constants, unread

EXAMPLE = torch.zeros(1, 3, 16, 16)


class Applied(nn.Module):
    """conv, norm, `f`, conv, and a head; `f` gets the network and the map."""

    def __init__(self, f, bias=True):
        super().__init__()
        self.f, self.a, self.n = f, nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.b, self.head = nn.Conv2d(8, 6, 3, padding=1, bias=bias), nn.Conv2d(6, 5, 1)
        self.up, self.slope = nn.ConvTranspose2d(8, 8, 2, 2), nn.PReLU(8)
        self.shift = nn.Parameter(torch.linspace(-0.5, 0.5, 8).view(1, 8, 1, 1))
        self.places = nn.Parameter(torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(1)))
        self.gate = nn.Conv2d(8, 1, 1)

    def forward(self, x):
        return self.head(F.relu(self.b(self.f(self, self.n(self.a(x))))))


def cut(net, example=EXAMPLE):
    """(small, full) at half the width, after the proof."""
    net = proof._randomised(net, 0)
    graph = find_groups(net, example)
    plan = make_plan(net, graph, {g.name: np.arange(g.size // 2) for g in graph.groups})
    assert {"a", "b"} <= plan.widths.keys()
    found = proof.prove(net, graph, plan, example)
    assert max(found.silenced, found.folded) < 1e-5
    return fold_constants(net, graph, plan, example)


def apart(a, b, margin=0, image=None):
    """The largest difference, away from the borders."""
    image = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(2)) if image is None else image
    inside = slice(margin, -margin or None)
    with torch.no_grad():
        return float((a.eval()(image) - b.eval()(image))[..., inside, inside].abs().max())


CONSTANT = {
    "sigmoid": lambda net, x: torch.sigmoid(x),
    "softplus": lambda net, x: F.softplus(x),
    "hard sigmoid": lambda net, x: F.hardsigmoid(x),
    "what sigmoid leaves": lambda net, x: 1 - torch.sigmoid(x),
    "exp": lambda net, x: torch.exp(-x),
    "shifted gelu": lambda net, x: F.gelu(x + 1.5),
    "shift, prelu, shift": lambda net, x: net.slope(x + net.shift) + net.shift,
    "pooled with zeros around": lambda net, x: F.avg_pool2d(torch.sigmoid(x), 3, 1, 1),
    "constant padding": lambda net, x: F.pad(torch.sigmoid(x), (1, 1, 1, 1), value=0.25),
    "zero padding by hand": lambda net, x: F.pad(torch.sigmoid(x), (1, 1, 1, 1, 0, 0)),
    "resized": lambda net, x: F.interpolate(F.max_pool2d(torch.sigmoid(x), 3, 2, 1), size=(16, 16), mode="bilinear"),
    "a chain": lambda net, x: F.selu(torch.log1p(torch.square(F.logsigmoid(x)))).clamp(max=1.5).flip(-1),
    "zeros of its size": lambda net, x: torch.sigmoid(x) + torch.zeros_like(x),
    "product": lambda net, x: torch.sigmoid(x) * torch.exp(x),
}


@pytest.mark.parametrize("name", CONSTANT)
def test_a_constant_that_is_not_zero_is_folded_exactly_away_from_borders(name):
    small, full = cut(Applied(CONSTANT[name]))
    assert apart(small, full, margin=4) < 1e-5


def test_a_border_of_zeros_is_what_the_fold_leaves_out():
    small, full = cut(Applied(CONSTANT["sigmoid"]))
    assert apart(small, full) > 1e-2


@pytest.mark.parametrize("bias", [True, False])
def test_a_constant_is_folded_into_a_convolution_that_its_module_does_not_call(bias):
    class Foreign(Applied):
        def forward(self, x):
            x = torch.sigmoid(self.n(self.a(x)))
            return self.head(F.relu(F.conv2d(x, self.b.weight, self.b.bias, padding=1)))

    small, full = cut(Foreign(None, bias))
    assert apart(small, full, margin=2) < 1e-5
    assert bias or small.b.bias is None, "a bias that nobody would add"


NO_CONSTANT = {
    "behind a transposed convolution": lambda net, x: net.up(torch.sigmoid(F.max_pool2d(x, 2))),
    "times a gate": lambda net, x: torch.sigmoid(x) * torch.sigmoid(net.gate(x).mean((2, 3), keepdim=True)),
    "at a place of its own": lambda net, x: x + net.places,
    "unpooled": lambda net, x: F.max_unpool2d(*F.max_pool2d(torch.sigmoid(x), 2, return_indices=True), 2),
}


@pytest.mark.parametrize("name", NO_CONSTANT)
def test_what_is_no_constant_is_not_read_any_more(name):
    small, full = cut(Applied(NO_CONSTANT[name]))
    assert apart(small, full, margin=0 if name == "unpooled" else 2) < 1e-5


def test_a_removed_channel_that_something_else_reads_is_a_fault():
    net = proof._randomised(Applied(lambda net, x: F.relu(x)), 0)
    graph = find_groups(net, EXAMPLE)
    plan = make_plan(net, graph, {"a": np.arange(4)})
    deaf = unread(net, graph, plan)
    assert not deaf.b.weight[:, 4:].any() and torch.equal(deaf.a.weight, net.a.weight)
    deaf.b.weight.data[:, 7] = 1
    assert apart(deaf, unread(net, graph, plan)) > 1e-2


class Masked(Applied):
    """The last class is never to be answered."""

    def forward(self, x):
        y = super().forward(x)
        return torch.cat([y, torch.full_like(y[:, :1], self.never)], 1)


def test_minus_infinity_is_a_class_that_is_masked_and_nan_is_a_fault():
    net = Masked(lambda net, x: F.relu(x))
    net.never = float("-inf")
    cut(net)
    net.never = float("nan")
    with pytest.raises(SurgeryError, match="output 0 holds NaN before anything is taken out; the weights may"):
        cut(net)


def test_rounding_is_settled_in_double_precision(monkeypatch):
    """Which of two nearly equal values is the largest hangs on the order of sums, and unpooling makes much of it."""
    asked, real = [], proof._runs

    def runs(net, *args):
        asked.append(next(net.parameters()).dtype)
        if asked[-1] == torch.float32:
            raise proof._Differs("rounded otherwise")
        return real(net, *args)

    monkeypatch.setattr(proof, "_runs", runs)
    cut(Applied(lambda net, x: F.relu(x).float()))
    assert asked == [torch.float32, torch.float64]


def test_a_fault_is_one_in_double_precision_too():
    net = Applied(lambda net, x: F.relu(x) * (x.shape[1] / 8))
    with pytest.raises(SurgeryError, match=r"differ by .*cutting a makes it so"):
        cut(net)
