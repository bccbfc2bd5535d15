"""SIRFP: what its maps see, its running mean, its second round, its spatial detail."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.prune.criteria.sirfp import SIRFP, edge_detail, similarity
from edgeprune.prune.groups import find_groups
from tests.prune import nets
from tests.prune.scoring import scored

X = torch.zeros(1, 3, 32, 32)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_sirfp_does_not_see_a_channels_scale(seed):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(2, 6, 5, 7, generator=generator) + 0.1
    scales = 10 ** (2 * torch.rand(6, generator=generator))
    for kind in ("l1", "cosine"):
        torch.testing.assert_close(
            similarity(maps * scales[None, :, None, None], kind), similarity(maps, kind), rtol=1e-3, atol=1e-5
        )


def test_sirfp_running_mean_starts_at_zero_and_skips_validations():
    net = nets.Residual().train()
    graph = find_groups(net, X)
    plain, running = SIRFP(), SIRFP(decay=0.9)
    image = torch.randn(2, 3, 32, 32)
    for criterion in (plain, running):
        criterion.attach(net, graph.groups)
        criterion.before_step(0, 2, 1.0)
    net(image)
    net.eval()(image)
    expected = None

    def keep(module, args, output):
        nonlocal expected
        expected = similarity(output)

    hook = net.b[1].register_forward_hook(keep)
    net.train()(image)
    hook.remove()
    torch.testing.assert_close(plain._means["b.1"], expected, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(running._means["b.1"], (1 - 0.9**2) * expected, atol=1e-6, rtol=1e-4)
    assert plain._batches["b.1"] == 2


def test_sirfp_second_round_takes_gradients_for_its_detail():
    torch.manual_seed(0)
    net = nets.Residual().eval()
    graph = find_groups(net, X)
    second = SIRFP(detail=0.4, detail_from="gradient", decay=0.5)
    assert second.needs_gradient and not SIRFP().needs_gradient
    plain = scored(SIRFP(decay=0.5), net, graph, 1)["b.0"]
    found = scored(second, net, graph, 1)["b.0"]
    gamma = net.b[1].weight
    e = torch.where(gamma.grad * gamma > 0, 0.5 * gamma.grad.abs(), 0)
    np.testing.assert_allclose(found - plain, 0.4 * e.detach().numpy(), atol=1e-6)
    head_only = scored(SIRFP(detail=0.4, detail_where="nothing.*", decay=0.5), net, graph, 1)["b.0"]
    np.testing.assert_allclose(head_only, plain)


def test_edge_detail_of_a_flat_map_is_zero_inside():
    flat = torch.ones(1, 1, 9, 9)
    flat[..., 4:] = 3.0
    assert float(edge_detail(flat)) > float(edge_detail(torch.zeros(1, 1, 9, 9))) == 0
