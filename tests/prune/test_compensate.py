"""Channels that stay stand in for those that go: exact where they can, better than nothing elsewhere, and still one proven cut."""

import numpy as np
import pytest
import torch
from torch import nn

from edgeprune import models
from edgeprune.models import logits_of
from edgeprune.prune import compensate
from edgeprune.prune.cutter import Cutter
from edgeprune.prune.groups import find_groups
from edgeprune.prune.proof import prove
from tests.models.small import SMALL
from tests.prune import nets

EXAMPLE = torch.zeros(2, 3, 32, 32)


def images(count: int = 4, size: tuple[int, int] = (32, 32)) -> list[torch.Tensor]:
    made = torch.Generator().manual_seed(1)
    return [torch.randn(2, 3, *size, generator=made) for _ in range(count)]


def cutter(net: nn.Module, example: torch.Tensor = EXAMPLE, stay: str = "first") -> tuple[Cutter, Cutter]:
    """(compensated, not); the scores keep the first units of each group, or others at random."""
    graph = find_groups(net, example)
    rng = np.random.default_rng(0)
    scores = {g.name: -np.arange(g.size, dtype=float) if stay == "first" else rng.random(g.size) for g in graph.groups}
    batches = images(16, tuple(example.shape[2:]))
    known = compensate.moments(net, graph, batches)
    return Cutter(net, graph, scores, known), Cutter(net, graph, scores)


class Mixture(nn.Module):
    """Channels 4 to 7 are mixtures of 0 to 3, plus a constant; what reads them has a norm, a bias, or is a transposed convolution."""

    def __init__(self, head: str, kernel: int = 3):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        with torch.no_grad():
            mix = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
            self.a.weight[4:] = torch.einsum("rk,k...->r...", mix, self.a.weight[:4])
            self.a.bias[4:] = mix @ self.a.bias[:4] + (0.0 if head == "transposed" else 1.0)
        made = nn.ConvTranspose2d(8, 5, 2, 2) if head == "transposed" else nn.Conv2d(8, 5, kernel, bias=head == "bias")
        self.b = nn.Sequential(made, nn.BatchNorm2d(5)) if head == "norm" else made

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x))


@pytest.mark.parametrize("head", ["norm", "bias", "transposed"])
def test_what_others_can_say_is_not_lost(monkeypatch, head):
    monkeypatch.setattr(compensate, "RIDGE", 1e-9)
    torch.manual_seed(0)
    net = Mixture(head).eval()
    with_, without = cutter(net)
    fresh = torch.randn(2, 3, 32, 32)
    near, far = (c.small(c.plan({"a": 4}), EXAMPLE).eval()(fresh) for c in (with_, without))
    torch.testing.assert_close(near, net(fresh), rtol=1e-2, atol=1e-2)
    assert (far - net(fresh)).abs().max() > 0.05, "so the test can fail"


def test_a_linear_layer_and_a_convolution_without_a_place_for_the_constant():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(2)).eval()
    flat = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 6, 1, bias=False), nn.ReLU(), nn.Conv2d(6, 4, 1)
    ).eval()
    with_, _ = cutter(flat)
    small = with_.small(with_.plan({"0": 4, "2": 3}), EXAMPLE)
    assert small(EXAMPLE).shape == (2, 4, 32, 32) and small[2].bias is None
    assert compensate.readers(net, find_groups(net, EXAMPLE).groups) == set()


def test_the_network_that_is_cut_is_not_touched():
    net = nets.Residual().eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with_, _ = cutter(net)
    with_.small(with_.plan({n: max(1, w // 2) for n, w in with_.graph.widths().items()}), EXAMPLE)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    net.train()
    compensate.moments(net, with_.graph, images(1))
    assert net.training and all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("build", nets.NETS, ids=lambda n: n.__name__)
def test_the_proof_holds_of_what_is_cut(build):
    net = build().eval()
    with_, _ = cutter(net, stay="random")
    plan = with_.plan({n: max(1, w // 2) for n, w in with_.graph.widths().items()})
    proof = prove(with_.prepared(plan), with_.graph, plan, EXAMPLE)
    assert max(proof.silenced, proof.folded) < 1e-5


@pytest.mark.parametrize("network", ["streetnet", "segnet", "bisenetv2", "enet", "segformer"])
def test_answers_stay_closer_on_every_kind_of_network(network):
    torch.manual_seed(0)
    example = torch.zeros(2, 3, 64, 96)
    net = models.build(network, SMALL.get(network, {}), None, 7)
    for batch in images(8, (64, 96)):  # statistics of real maps; a fresh network's are not
        net.train()(batch)
    net.eval()
    with_, without = cutter(net, example, "random")
    widths = {n: max(1, w * 3 // 4) for n, w in with_.graph.widths().items()}
    fresh = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        far, near = (
            float((logits_of(c.small(c.plan(widths), example).eval()(fresh)) - logits_of(net(fresh))).square().mean())
            for c in (without, with_)
        )
    assert near < 0.9 * far


def test_positions_are_of_the_whole_map_and_not_of_its_first_columns():
    net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 1, 1, bias=False))
    nn.init.ones_(net[0].weight)
    columns = torch.arange(256.0).expand(1, 1, 128, 256)
    found, hooks = compensate.watch(net, ["1"])
    with torch.no_grad():
        net(columns)
    for hook in hooks:
        hook.remove()
    assert found["1"].count == compensate.POSITIONS
    assert float(found["1"].total[0]) / found["1"].count == pytest.approx(127.5, rel=0.1)


def test_layers_that_read_very_many_channels_do_without():
    """A classifier behind a flattened map: moments of gigabytes, and one position an image."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 32 * 32, 6), nn.ReLU(), nn.Linear(6, 5)
    )
    graph = find_groups(net, EXAMPLE)
    assert compensate.readers(net, graph.groups) == {"4"}
    one, _ = cutter(net)
    plan = one.plan({g.name: g.size // 2 for g in graph.groups})
    prove(one.prepared(plan), graph, plan, EXAMPLE)
