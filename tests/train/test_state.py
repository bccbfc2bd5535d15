"""State that nobody learns is no weight: what training does not move, nothing else moves, and modes are left as they were."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from edgeprune.models.modes import evaluating
from edgeprune.profile.macs import count_macs, count_params
from edgeprune.prune.compensate import moments
from edgeprune.prune.groups import find_groups
from edgeprune.prune.plan import make_plan
from edgeprune.prune.surgery import fold_constants
from edgeprune.recipe import Train
from edgeprune.train import sparse
from edgeprune.train.average import Average
from edgeprune.train.loop import Hooks, _read, _State, train
from edgeprune.train.memory import lie
from edgeprune.train.recalibrate import adapting, disturbed, recalibrate

SIZE = (16, 24)
EXAMPLE = torch.zeros(1, 3, *SIZE)


def block(i: int, o: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU())


class Tables(nn.Module):
    """With buffers of every kind, of which training moves the norm's and the counter."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = block(3, 8), nn.Conv2d(8, 5, 1)
        self.fixed = nn.Parameter(torch.full((1, 8, 1, 1), 0.1), requires_grad=False)
        self.register_buffer("order", torch.arange(7, -1, -1))
        self.register_buffer("on", torch.tensor([True, False]))
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        self.register_buffer("places", torch.linspace(0, 1, 11))
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, x):
        if self.training:
            self.calls += 1
        return self.b(self.a(x)[:, self.order] * self.fixed)


def stepped(net: nn.Module, steps: int, *averages) -> None:
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    for _ in range(steps):
        net.train()(torch.randn(2, 3, *SIZE)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        for add in averages:
            add(net)


def test_only_what_training_moves_is_averaged():
    torch.manual_seed(0)
    net = Tables()
    before, average = copy.deepcopy(net.state_dict()), Average(net, 0.99)
    stepped(net, 12, average.update)
    found = average.module.state_dict()
    for name in ("order", "on", "mask", "places", "fixed"):
        assert torch.equal(found[name], before[name]), name
    assert int(found["calls"]) == 12 and int(found["a.1.num_batches_tracked"]) == 12


def test_weights_and_norms_are_averaged_as_pytorch_does_it():
    def average(held, new, count):
        get_ema_multi_avg_fn(min(0.5, (1 + int(count)) / (10 + int(count))))(held, new, count)

    torch.manual_seed(0)
    net = nn.Sequential(block(3, 8), nn.Conv2d(8, 5, 1))
    ours, known = Average(net, 0.5), AveragedModel(net, multi_avg_fn=average, use_buffers=True)
    stepped(net, 8, ours.update, known.update_parameters)
    expected = known.module.state_dict()
    for name, value in ours.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-7)
    averaged, last = ours.module.state_dict(), net.state_dict()
    assert not any(torch.equal(averaged[n], last[n]) for n in ("0.1.weight", "0.1.running_mean", "1.weight"))


def test_an_average_goes_on_from_where_it_was():
    torch.manual_seed(0)
    net = Tables()
    first, state = Average(net, 0.9), None
    stepped(net, 3, first.update)
    state = copy.deepcopy(first.state_dict())
    second = Average(Tables(), 0.9)
    second.load_state_dict(state)
    stepped(net, 2, first.update, second.update)
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.module.state_dict().values(), second.module.state_dict().values(), strict=True)
    )


class Frozen(nn.Module):
    """A stem that learns, a backbone that its author holds in evaluation, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.backbone, self.head = block(3, 8), block(8, 8), nn.Sequential(block(8, 8), nn.Conv2d(8, 5, 1))

    def train(self, mode: bool = True):
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, x):
        return self.head(self.backbone(self.stem(x)))


def bright() -> list[tuple[torch.Tensor]]:
    return [(2 * torch.randn(2, 3, *SIZE) + 1,) for _ in range(3)]


def moved(net: nn.Module, *args) -> set[str]:
    before = copy.deepcopy(net.state_dict())
    recalibrate(net, bright(), 3, *args)
    return {n.rpartition(".")[0] for n, v in net.state_dict().items() if not torch.equal(v, before[n])}


def test_recalibration_leaves_what_the_networks_own_train_keeps_in_evaluation():
    assert moved(Frozen().eval()) == {"stem.1", "head.0.1"}


def test_recalibration_leaves_norms_without_gradients():
    net = nn.Sequential(block(3, 8), block(8, 8))
    net[0].requires_grad_(False)
    assert moved(net) == {"1.1"} == adapting(net)


def test_recalibration_leaves_norms_in_front_of_the_cut():
    assert moved(Frozen().eval(), ["head.0.1", "backbone.1"]) == {"head.0.1"}
    assert moved(Frozen().eval(), []) == set()


@pytest.mark.parametrize(("cut", "behind"), [("0.0", ["0.1", "1.1", "2.1"]), ("1.0", ["1.1", "2.1"]), ("2.0", ["2.1"])])
def test_norms_behind_a_cut_are_those_that_read_something_else(cut, behind):
    torch.manual_seed(0)
    net = nn.Sequential(block(3, 8), block(8, 8), block(8, 8), nn.Conv2d(8, 5, 1)).eval()
    graph = find_groups(net, EXAMPLE)
    keep = {
        g.name: torch.arange(3, g.size).numpy() if cut in g.producers else torch.arange(g.size).numpy()
        for g in graph.groups
    }
    assert any(len(k) < 8 for k in keep.values())
    small, _ = fold_constants(net, graph, make_plan(net, graph, keep), EXAMPLE)
    assert disturbed(net, small, EXAMPLE) == behind


def test_norms_that_are_called_by_keyword_are_read():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.bn = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)

        def forward(self, x):
            return self.bn(input=self.a(x))

    before = Named()
    after = copy.deepcopy(before)
    nn.init.ones_(after.a.weight)
    assert disturbed(before, after, EXAMPLE) == ["bn"]


def test_nothing_is_behind_a_cut_that_did_not_happen():
    net = Frozen().eval()
    assert disturbed(net, copy.deepcopy(net), EXAMPLE) == []


def one_kept() -> nn.Module:
    """In training, but for a norm that whoever built it keeps in evaluation."""
    net = nn.Sequential(block(3, 8), nn.Conv2d(8, 5, 1)).train()
    net[0][1].eval()
    return net


@pytest.mark.parametrize(
    "asked",
    [
        lambda net: count_macs(net, SIZE),
        lambda net: count_params(net, SIZE),
        lambda net: moments(net, find_groups(net, EXAMPLE), [torch.randn(2, 3, *SIZE)]),
        lambda net: recalibrate(net, bright(), 1),
        lambda net: disturbed(net, net, EXAMPLE),
    ],
)
def test_every_module_comes_out_in_its_own_mode(asked):
    net = one_kept()
    asked(net)
    assert [m.training for m in net.modules()] == [m.training for m in one_kept().modules()]


def test_what_a_networks_train_does_besides_is_done():
    class Merging(nn.Conv2d):
        merged = False

        def train(self, mode: bool = True):
            self.merged = not mode
            return super().train(mode)

    net = nn.Sequential(Merging(3, 5, 1)).train()
    with evaluating(net):
        assert net[0].merged
    assert not net[0].merged


def test_nhwc_lays_kernels_out_and_nothing_else():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 5, 3))
    net.register_buffer("table", torch.randn(1, 8, 4, 4))
    net.register_parameter("scale", nn.Parameter(torch.randn(1, 8, 2, 2)))
    lie(net, torch.channels_last)
    assert all(m.weight.is_contiguous(memory_format=torch.channels_last) for m in net)
    assert net.table.is_contiguous() and net.scale.is_contiguous()
    assert all(p.is_contiguous() for p in lie(net, torch.contiguous_format).parameters())


def test_two_of_four_leaves_frozen_layers_whole():
    net = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1))
    net[0].requires_grad_(False)
    sparse.apply(net)
    assert list(sparse.layers(net)) == ["1"] and (net[0].weight != 0).all() and sparse.holds(net)


class Batches:
    per_epoch = 1.0

    def stream(self, *args):
        generator = torch.Generator().manual_seed(0)
        while True:
            yield torch.randn(2, 3, *SIZE, generator=generator), torch.zeros(2, *SIZE, dtype=torch.long)


@pytest.mark.parametrize("ema", [None, 0.9])
def test_a_validation_on_the_way_changes_no_weight(tmp_path: Path, ema):
    def trained(every: int):
        torch.manual_seed(0)
        net, seen = Tables(), []
        hooks = Hooks(evaluate=lambda n: seen.append(n.eval()) or 0.5)
        cfg = Train(steps=4, batch=2, ema=ema, val_every=every)
        train(
            net, Batches(), cfg, tmp_path, loss=lambda out, labels: out.square().mean(), seed=0, title="t", hooks=hooks
        )
        assert len(seen) == (3 if every else 0)
        return net.state_dict()

    without, with_some = trained(0), trained(1)
    assert all(torch.equal(v, with_some[n]) for n, v in without.items())
    assert torch.equal(without["order"], torch.arange(7, -1, -1)) and int(without["calls"]) == 4


class Recent(nn.Module):
    """Learns with what its state_dict leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 5, 1)
        self.register_buffer("mean", torch.zeros(5), persistent=False)

    def forward(self, x):
        y = self.a(x)
        if self.training:
            self.mean.lerp_(y.detach().mean((0, 2, 3)), 0.5)
        return y - self.mean[None, :, None, None]


def test_a_checkpoint_holds_what_the_state_dict_leaves_out(tmp_path: Path):
    def state_of(net):
        optimizer, scaler = torch.optim.SGD(net.parameters(), lr=0.1), torch.amp.GradScaler("cpu", enabled=False)
        return _State(tmp_path / "c.pt", "key", net, optimizer, scaler, average, Hooks())

    net, fresh = Recent(), Recent()
    average = Average(net, 0.9)
    stepped(net, 2, average.update)
    state_of(net).save(2, None)
    wanted, average = average.module.mean, Average(fresh, 0.9)
    kept = _read(tmp_path / "c.pt", "key")
    assert kept is not None and kept["step"] == 2
    state_of(fresh).restore(kept)
    assert torch.equal(fresh.mean, net.mean) and torch.equal(average.module.mean, wanted) and fresh.mean.any()


def test_a_parameter_of_integers_is_no_hindrance_to_the_count():
    net = nn.Conv2d(3, 5, 1)
    net.order = nn.Parameter(torch.arange(5), requires_grad=False)
    assert count_params(net, SIZE) == 3 * 5 + 5
