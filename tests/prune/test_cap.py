import numpy as np
import torch

from edgeprune.prune.allocate import allocate
from edgeprune.prune.criteria.cap import CAP, affinity, guidance
from edgeprune.prune.groups import find_groups
from tests.prune import nets

A = torch.tensor([[1.0, 0], [1, 0], [0, 1]]).reshape(1, 3, 1, 2)


def test_affinity_vector_of_both_readings():
    x = affinity(A, scaled=False)[0]
    assert torch.allclose(x[0], torch.tensor([0.4223, 0.4223, 0.1554]), atol=1e-4)
    assert torch.allclose(x[2], torch.tensor([0.2119, 0.2119, 0.5761]), atol=1e-4)
    assert torch.allclose(x.sum(0), torch.tensor([1.0566, 1.0566, 0.8868]), atol=2e-4)
    danet = affinity(A, "danet", scaled=False)[0]
    assert torch.allclose(danet.sum(0), torch.tensor([0.8462, 0.8462, 1.3076]), atol=2e-4)
    assert torch.isfinite(guidance(1e3 * torch.rand(2, 8, 40, 40), scaled=False)).all()


def test_global_threshold_keeps_the_floor_of_a_layer_that_would_vanish():
    scores = {"l1": np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.12]), "l2": np.arange(1, 11) / 110}
    widths = allocate(scores, lambda w: float(sum(w.values())), 11, min_keep=0.1)
    assert widths == {"l1": 10, "l2": 1}


def test_sparsity_pushes_unguided_scales_harder_and_leaves_the_loss_gradient_alone():
    net = nets.Residual().train()
    graph = find_groups(net, torch.zeros(1, 3, 32, 32))
    cap = CAP(strength=0.1)
    cap.attach(net, graph.groups)
    net(torch.randn(2, 3, 32, 32)).square().mean().backward()
    before = net.b[1].weight.grad.clone()
    cap.after_backward()
    push = net.b[1].weight.grad - before
    assert push.min() >= 0 and abs(float(push.max()) - 0.1) < 1e-6 and float(push.min()) < 1e-6
    cap.detach()
    assert all(v.shape == (g.size,) for g, v in zip(graph.groups, cap.scores().values(), strict=True))
