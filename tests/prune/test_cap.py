import numpy as np
import torch
import torch.nn.functional as F

from edgeprune.prune.allocate import allocate
from edgeprune.prune.criteria.cap import CAP, affinity, guidance, push
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
    assert torch.allclose(x.sum(1), torch.ones(3))  # rows say nothing


def test_guidance_reads_columns_and_the_readings_differ_in_order():
    assert torch.allclose(guidance(A, scaled=False), torch.tensor([1.0566, 1.0566, 0.8868]) / 3, atol=1e-4)
    assert guidance(A, "softmax", False).argmin() == 2 and guidance(A, "danet", False).argmax() == 2
    assert torch.allclose(guidance(A, "softmax", False, "max"), torch.tensor([0.4223, 0.4223, 0.5761]), atol=1e-4)


def test_both_ways_to_guide():
    gamma, g = torch.tensor([-2.0, 0.0, 0.5]), torch.tensor([0.1, 0.2, 0.3])  # scaled: 0, a half, 1
    assert push(gamma, g).tolist() == [-1, 0, 0]
    assert push(gamma, g, "follow").tolist() == [-2, 0, -0.5]


def test_a_step_of_several_batches_is_guided_by_all_of_their_images():
    """Its gradients are summed over them, too; the last batch alone used to count."""
    net = nets.Residual().train()
    graph = find_groups(net, torch.zeros(1, 3, 32, 32))
    images, gave = torch.randn(4, 3, 32, 32), []
    norm, pushed = net.b[1], {}
    for name, parts in (("whole", [images]), ("halves", [images[:2], images[2:]])):
        cap = CAP(strength=1.0)
        cap.attach(net, graph.groups)
        hook = norm.register_forward_hook(lambda m, a, out: gave.append(out.detach()))
        for part in parts:
            net(part)
        hook.remove()
        norm.weight.grad = torch.zeros_like(norm.weight)
        cap.after_backward()
        pushed[name] = (norm.weight.grad.clone(), guidance(F.relu(torch.cat(gave[-len(parts) :]))))
        cap.detach()
        assert not cap._guides
    for found, g in pushed.values():
        torch.testing.assert_close(
            found, push(norm.weight, g), atol=2e-3, rtol=0
        )  # the scaling to 0..1 widens rounding
    last = push(norm.weight, guidance(F.relu(gave[-1])))
    assert (pushed["halves"][0] - last).abs().max() > 0.02


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
