import importlib.util
from pathlib import Path

import pytest
import torch
from scipy.stats import beta

from edgeprune.prune import cost
from edgeprune.prune.groups import find_groups
from edgeprune.recipe import Train
from edgeprune.train.ccgn import BetaCDF, Gate, Gating, batch_shaping
from edgeprune.train.loop import Hooks, train
from tests.prune import nets

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "methods" / "ccgn.py"


def benchmark():
    spec = importlib.util.spec_from_file_location("ccgn_benchmark", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_batch_shaping_vector():
    x = torch.tensor([0.7, 0.1, 0.9, 0.4])[:, None]
    assert float(batch_shaping(x, 1, 1)) == pytest.approx(0.0075, abs=1e-6)


def test_beta_distribution_function_and_its_derivative():
    x = torch.tensor([0.05, 0.3, 0.5, 0.95], dtype=torch.double, requires_grad=True)
    y = BetaCDF.apply(x, 0.6, 0.4)
    assert y.tolist() == pytest.approx(beta.cdf(x.detach().numpy(), 0.6, 0.4))
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == pytest.approx(beta.pdf(x.detach().numpy(), 0.6, 0.4))


def test_a_prior_pulls_equal_gates_apart():
    p = torch.full((8, 1), 0.5) + torch.linspace(-0.01, 0.01, 8)[:, None]
    p.requires_grad_()
    batch_shaping(p).sum().backward()
    assert p.grad is not None
    assert p.grad[0] > 0 > p.grad[-1]  # descent moves the lowest down and the highest up


def test_gates_are_hard_and_learn_straight_through():
    torch.manual_seed(0)
    gate = Gate(4, 6).train()
    _, mask = gate(torch.randn(3, 4, 5, 5))
    assert set(mask.detach().unique().tolist()) <= {0.0, 1.0}
    mask.sum().backward()
    assert gate.two.bias.grad is not None and gate.two.bias.grad.abs().min() > 0
    p, mask = gate.eval()(torch.randn(3, 4, 5, 5))
    assert torch.equal(mask, (p > 0.5).float())


def test_open_gates_change_nothing_and_closed_ones_save_macs():
    torch.manual_seed(0)
    net = nets.Residual().eval()
    image = torch.randn(2, 3, 32, 32)
    expected = net(image)
    graph = find_groups(net, image[:1])
    found = benchmark().places(net, graph)
    assert [p.group for p in found] == ["b.0"]  # the other group is a residual sum
    gating = Gating(net, found)
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(image), expected)
        gating.gates[0].two.weight.zero_()
        gating.gates[0].two.bias[:6] = -1.0
        net(image)
    assert gating.widths() == [{"b.0": 18}] * 2 and gating.macs() == 16 * 16 + 16 * 24
    price = cost.total(cost.macs(graph))
    assert price({**graph.widths(), "b.0": 18}) < price(graph.widths())
    gating.before_step(0, 10, 1.0)
    early = gating.term(torch.zeros(()), None, torch.zeros(()))
    gating.before_step(10, 10, 1.0)
    late = gating.term(torch.zeros(()), None, torch.zeros(()))
    on = torch.sigmoid(torch.tensor([-1.0] * 6 + [2.0] * 18)).mean()
    assert float(late) == pytest.approx(0.5 * float(on)) and float(early) > 0
    gating.remove()
    assert not any("ccgn" in n for n, _ in net.named_parameters())


def test_a_killed_training_goes_on_to_the_same_gates(tmp_path):
    class Batches:
        per_epoch, left = 4, 99

        def stream(self, first: int = 0, rank: int = 0, world: int = 1):
            for n in range(first, 4):
                self.left -= 1
                if self.left == 0:
                    raise KeyboardInterrupt
                draw = torch.Generator().manual_seed(n)
                yield torch.randn(4, 3, 32, 32, generator=draw), torch.randint(0, 5, (4,), generator=draw)

    def gated(home: Path, left: int = 99) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        net = nets.Residual()
        gating = Gating(net, benchmark().places(net, find_groups(net, torch.zeros(1, 3, 32, 32))))
        hooks = Hooks(before_step=gating.before_step, term=gating.term)
        batches, cfg = Batches(), Train.model_validate({"steps": 4, "batch": 4, "checkpoint_every": 1})
        batches.left = left
        train(net, batches, cfg, home, loss=lambda out, labels: out.square().mean(), seed=0, title="t", hooks=hooks)
        assert gating.seconds > 0
        return net.state_dict()

    expected = gated(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        gated(tmp_path / "cut", left=3)
    found = gated(tmp_path / "cut")
    assert any("ccgn_gates" in name for name in found)
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
