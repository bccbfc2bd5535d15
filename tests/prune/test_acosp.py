"""ACoSP: gates, temperature, threshold; its masks settle into the weights."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgeprune.prune.allocate import allocate
from edgeprune.prune.criteria import CRITERIA, acosp
from edgeprune.prune.groups import find_groups
from tests.prune import nets
from tests.prune.scoring import loss_of

X = torch.zeros(1, 3, 32, 32)
WATCHED = [nets.Residual, nets.Grouped, nets.Transposed, nets.Unpool, nets.SqueezeExcite, nets.Normed]


def test_acosp_gate_vectors():
    w = torch.tensor([0.3, -1.2, 0.8, 0.1])
    z = acosp.standardised(w)
    torch.testing.assert_close(z, torch.tensor([0.3519, -1.4077, 0.9385, 0.1173]), atol=1e-4, rtol=0)
    assert float(acosp.threshold(z, 2)) == pytest.approx(0.23462, abs=1e-4)
    assert float(acosp.threshold(z, 1)) == pytest.approx(0.49856, abs=1e-4)
    for k, tau, expected in (
        (2, 1.0, [0.5293, 0.1621, 0.6690, 0.4707]),
        (2, 0.1, [0.7637, 0.0, 0.9991, 0.2363]),
        (2, 0.01, [1.0, 0.0, 1.0, 0.0]),
        (1, 1.0, [0.4634, 0.1294, 0.6082, 0.4058]),
    ):
        torch.testing.assert_close(acosp.soft_mask(w, k, tau), torch.tensor(expected), atol=1e-4, rtol=0)
    assert acosp.hard_mask(w, 2, 1e-3).tolist() == [1, 0, 1, 0]
    assert acosp.soft_mask(w, 4, 1.0).tolist() == [1, 1, 1, 1]


def test_acosp_temperature_and_count():
    taus = [acosp.temperature(e / 200, 0, 0.25) for e in (0, 10, 25, 40, 50, 199)]
    np.testing.assert_allclose(taus, [1, 0.25119, 0.03162, 0.00398, 0.001, 0.001], rtol=1e-3)
    assert acosp.kept(24, 0.0625) == 8 and acosp.kept(64, 0.5) == 32 and acosp.kept(4, 0.5) == 4


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(2, 40), data=st.data())
def test_acosp_keeps_exactly_k_and_its_threshold_has_a_closed_form(seed, size, data):
    k = data.draw(st.integers(1, size - 1))
    w = torch.randn(size, generator=torch.Generator().manual_seed(seed)).double()
    z = acosp.standardised(w)
    ordered = z.sort().values
    closed = ordered[size - k - 1] + k / size * (ordered[size - k] - ordered[size - k - 1])
    assert float(acosp.threshold(z, k)) == pytest.approx(float(closed), abs=1e-9)
    assert int((z > acosp.threshold(z, k)).sum()) == k
    assert int(acosp.hard_mask(w, k, 0.1).sum()) == k
    if w.std() > 2e-3:  # below 1e-3 the standard deviation counts as that
        torch.testing.assert_close(acosp.soft_mask(3 * w + 7, k, 0.1), acosp.soft_mask(w, k, 0.1))


def test_acosp_gradient_reaches_the_gate_but_not_through_its_threshold():
    w = torch.tensor([0.3, -1.2, 0.8, 0.1], dtype=torch.double, requires_grad=True)
    fixed = acosp.threshold(acosp.standardised(w), 2)

    def with_fixed(v):
        return torch.sigmoid((acosp.standardised(v) - fixed) / 0.5)

    one = torch.autograd.grad(acosp.soft_mask(w, 2, 0.5)[0], w)[0]
    other = torch.autograd.grad(with_fixed(w)[0], w)[0]
    torch.testing.assert_close(one, other)
    assert one.abs().max() > 0.1


@pytest.mark.parametrize("build", WATCHED)
@pytest.mark.parametrize("after_bn", [False, True])
def test_acosp_settles_its_masks_into_the_weights(build, after_bn):
    torch.manual_seed(0)
    net = build().train()
    graph = find_groups(net, X)
    criterion = CRITERIA["acosp"](keep=0.5, end=0.5, least=2, after_bn=after_bn)
    criterion.attach(net, graph.groups)
    assert any("acosp_gates" in n for n, _ in net.named_parameters())
    image = torch.randn(2, 3, 32, 32)
    for step in range(4):
        criterion.before_step(step, 4, 1.0)
        if step == 0:
            loss_of(net(image)).backward()
            gates = [p for n, p in net.named_parameters() if "acosp_gates" in n]
            assert any(g.grad is not None and g.grad.abs().max() > 0 for g in gates) or build is nets.Normed
    expected = net.eval()(image)
    criterion.detach()
    torch.testing.assert_close(net(image), expected, atol=1e-5, rtol=1e-4)
    for g in graph.groups:  # exactly k lie above 0, so a budget in channels gives the a-priori widths
        k = acosp.kept(g.size, 0.5, 2)
        assert int((criterion.scores()[g.name] > 0).sum()) == k
        if not after_bn:
            for m in (m for m in g.members if m.kind == "out"):
                layer = net.get_submodule(m.module)
                rows = layer.weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else layer.weight
                gone = m.index[criterion.scores()[g.name] < 0].ravel()
                assert float(rows[gone].detach().abs().sum()) == 0
    widths = allocate(
        criterion.scores(), lambda w: float(sum(w.values())), sum(acosp.kept(g.size, 0.5, 2) for g in graph.groups)
    )
    assert widths == {g.name: acosp.kept(g.size, 0.5, 2) for g in graph.groups}


def test_acosp_moves_its_temperature_once_an_epoch_where_asked():
    step, epoch = CRITERIA["acosp"](end=1.0), CRITERIA["acosp"](end=1.0, update="epoch")
    for criterion in (step, epoch):
        criterion.before_step(7, 20, 5.0)
    assert step.tau == pytest.approx(10 ** (-3 * 7 / 20)) and epoch.tau == pytest.approx(10 ** (-3 * 5 / 20))
