"""Blocks that vanish: which may, the proof that they did, and what is left in the file, the engine and the budget."""

from itertools import combinations

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgeprune import models
from edgeprune.deploy.export import Shipped, export
from edgeprune.deploy.plain import plain
from edgeprune.errors import BudgetError, SurgeryError
from edgeprune.files import read_json, write_json
from edgeprune.models import streetnet
from edgeprune.profile.macs import count_macs, count_params
from edgeprune.prune import cost
from edgeprune.prune.artefact import load_pruned, save_pruned
from edgeprune.prune.blocks import find_blocks, may_vanish
from edgeprune.prune.groups import find_groups
from edgeprune.prune.knapsack import knapsack
from edgeprune.prune.plan import make_plan
from edgeprune.prune.proof import prove, removable
from edgeprune.prune.removal import knapsack_with_removal
from edgeprune.prune.surgery import fold_constants, shrink
from edgeprune.runtime import openvino

EXAMPLE = torch.zeros(1, 3, 64, 96)
NETWORKS = {
    "streetnet": {"width": 8, "blocks": 2},
    "deeplabv3": {"depth": 50, "width": 8, "head": 16},
    "deeplabv3plus": {"depth": 18, "width": 8, "head": 16},
}


class Squeeze(nn.Module):
    """A branch with a squeeze-and-excitation gate and a strided, "same"-padded convolution, added in place."""

    def __init__(self):
        super().__init__()
        self.stem, self.wide = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 1)
        self.deep = nn.Conv2d(16, 16, 5, padding="same", groups=16)
        self.down, self.up = nn.Linear(16, 4), nn.Linear(4, 16)
        self.back, self.norm, self.head = nn.Conv2d(16, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 5, 1)

    def forward(self, x):
        x = F.relu(self.stem(x))
        y = F.relu(self.deep(F.relu(self.wide(x))))
        y = y * torch.sigmoid(self.up(F.relu(self.down(y.mean((2, 3))))))[..., None, None]
        out = self.norm(self.back(y))
        out += F.max_pool2d(x, 2)
        return self.head(F.relu(out))


def kept(graph, gone, share=0.5):
    return {g.name: np.arange(0 if g.name in gone else max(1, int(share * g.size))) for g in graph.groups}


def test_residual_branches_are_found_whole():
    graph = find_groups(models.build("deeplabv3", {"depth": 50, "width": 8, "head": 16}, None, 5), EXAMPLE)
    found = find_blocks(graph)
    assert len(found) == 16, "every bottleneck of ResNet-50, and nothing else"
    for name, groups in found.items():
        assert groups == {name, name.removesuffix("1") + "2"}


@pytest.mark.parametrize("net", [models.build("segnet", {"widths": ((4, 4), (8, 8))}, None, 5), nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 1))])  # fmt: skip
def test_nothing_vanishes_where_all_passes_through(net):
    graph = find_groups(net, EXAMPLE)
    assert graph.groups and find_blocks(graph) == {}
    with pytest.raises(SurgeryError, match="not be connected"):
        make_plan(net, graph, kept(graph, {graph.groups[0].name}))


@pytest.mark.parametrize("name", NETWORKS)
def test_proof_macs_and_parameters_with_blocks_gone(name):
    torch.manual_seed(0)
    net = models.build(name, NETWORKS[name], None, 5)
    graph = find_groups(net, EXAMPLE)
    blocks = find_blocks(graph)
    assert blocks
    all_gone = frozenset().union(*blocks.values())
    for gone in [*list(blocks.values())[-3:], *([all_gone] if may_vanish(graph, all_gone) else [])]:
        plan = make_plan(net, graph, kept(graph, gone))
        proof = prove(net, graph, plan, EXAMPLE)
        assert max(proof.silenced, proof.folded) < 1e-5
        small = shrink(net, plan)
        assert cost.total(cost.macs(graph))(plan.widths) == pytest.approx(count_macs(small, (64, 96)), rel=1e-3)
        left = cost.total(cost.params(graph))(plan.widths)
        if "context.conv.0" in gone:  # nothing reads the deep stages then; the engine has none of them
            assert count_params(small, (64, 96)) < left
        else:
            assert count_params(small, (64, 96)) == left


def test_part_of_a_block_may_not_go():
    net = models.build("deeplabv3", {"depth": 50, "width": 8, "head": 16}, None, 5)
    graph = find_groups(net, EXAMPLE)
    with pytest.raises(SurgeryError, match="keep a channel"):
        make_plan(net, graph, kept(graph, {"backbone.layer1.0.conv1"}))


def test_gates_strides_and_sums_in_place():
    torch.manual_seed(0)
    net = Squeeze()
    graph = find_groups(net, EXAMPLE)
    blocks = find_blocks(graph)
    assert {"wide", "down"} in [set(b) for b in blocks.values()] and {"down"} in [set(b) for b in blocks.values()]
    for gone in blocks.values():
        prove(net, graph, make_plan(net, graph, kept(graph, gone)), EXAMPLE)


def test_saved_loaded_trained_and_shipped(tmp_path):
    torch.manual_seed(0)
    net = models.build("streetnet", NETWORKS["streetnet"], None, 5).train()
    for _ in range(3):
        net(torch.randn(2, 3, 64, 96))  # statistics, so that there is something to fold
    graph = find_groups(net.eval(), EXAMPLE)
    gone = frozenset({"stage16.1.body.0.0", "stage16.2.body.0.0"})
    plan = make_plan(net, graph, kept(graph, gone, 0.75))
    small, full = fold_constants(net, graph, plan, EXAMPLE)
    spec = {"network": "streetnet", "args": NETWORKS["streetnet"], "factory": None, "classes": 5}
    save_pruned(tmp_path, small, plan, spec)
    image = torch.randn(1, 3, 64, 96)
    assert torch.equal(load_pruned(tmp_path)(image), small.eval()(image))
    told = read_json(tmp_path / "plan.json")
    name = next(iter(told["tensors"]))
    for odd in ({name: {"0": [999]}}, {name: {"9": [0]}}, {"nothing.weight": {"0": [0]}}):
        write_json(tmp_path / "odd" / "plan.json", told | {"tensors": told["tensors"] | odd})
        with pytest.raises(SurgeryError, match=r"plan\.json: does not fit its network"):
            load_pruned(tmp_path / "odd")

    export(Shipped(plain(small, EXAMPLE), (0.5,) * 3, (0.25,) * 3, logits=True), (64, 96), tmp_path / "p.onnx", 20)
    convs = [n for n in onnx.load(tmp_path / "p.onnx").graph.node if n.op_type == "Conv"]
    dense = [op for op in graph.operations if op.signature]
    assert len(convs) == len(dense) - 6, "three convolutions a vanished block"
    held = [tuple(t.dims) for t in onnx.load(tmp_path / "p.onnx").graph.initializer]
    assert not any(len(d) == 4 and d[:2] == (1, 32) and d[2] > 1 for d in held), "a number a channel, not a map"
    pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3)).astype(np.uint8)
    engine = openvino.compile(tmp_path / "p.onnx", tmp_path / "engine", precision="f32")
    wanted = Shipped(small, (0.5,) * 3, (0.25,) * 3)(torch.from_numpy(pixels)).numpy()
    assert (engine.predict(pixels) == wanted).mean() > 0.999

    small.train()(torch.randn(2, 3, 64, 96)).square().mean().backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in small.parameters())


def test_removal_against_all_sets_of_blocks():
    """Within a tenth of the best of all subsets, each solved by the knapsack, over many random worths."""
    net = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), *(streetnet.Residual(16, 16) for _ in range(4)), nn.Conv2d(16, 5, 1))
    graph = find_groups(net, EXAMPLE)
    blocks, terms = find_blocks(graph), cost.macs(graph)
    assert len(blocks) == 4
    dense = cost.total(terms)(graph.widths())
    rng, shares = np.random.default_rng(0), []
    for limit in np.repeat([0.6, 0.3, 0.12], 4) * dense:
        values = {n: dict(zip((4, 8, 16), sorted(-rng.exponential(1, 3)), strict=True)) for n in graph.widths()}
        losses = {name: float(rng.exponential(2)) for name in blocks}
        every = [c for count in range(5) for c in combinations(blocks, count)]
        found = [solved(values, terms, limit, [blocks[c] for c in chosen]) for chosen in every]
        best = max(v - sum(losses[c] for c in chosen) for v, chosen in zip(found, every, strict=True))
        widths = knapsack_with_removal(graph, values, terms, limit, losses, free=True)
        assert cost.total(terms)(widths) <= limit
        mine = sum(values[n][w] for n, w in widths.items() if w) - sum(losses[n] for n in blocks if not widths[n])
        shares.append(best / mine)  # both are negative
    assert min(shares) > 0.9 and np.mean(shares) > 0.98, shares
    least = cost.total(terms)(dict.fromkeys(graph.widths(), 4))
    with pytest.raises(BudgetError):
        knapsack(values, terms, 0.9 * least)
    assert knapsack_with_removal(graph, values, terms, 0.6 * dense, losses) == knapsack(values, terms, 0.6 * dense)
    assert 0 in knapsack_with_removal(graph, values, terms, 0.9 * least, losses).values()


def test_where_blocks_must_go_as_few_go_as_can_be():
    """Even where sums of single losses say that without most of them the rest would be worth more."""
    net = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), *(streetnet.Residual(16, 16) for _ in range(4)), nn.Conv2d(16, 5, 1))
    graph = find_groups(net, EXAMPLE)
    blocks, terms = find_blocks(graph), cost.macs(graph)
    values = {n: {4: -9.0, 8: -3.0, 16: 0.0} for n in graph.widths()}
    losses = {name: 0.1 * number for number, name in enumerate(blocks)}
    price = cost.total(terms)
    least = price(dict.fromkeys(graph.widths(), 4))
    saved = least - price({**dict.fromkeys(graph.widths(), 4), **dict.fromkeys(next(iter(blocks.values())), 0)})
    for share, count in ((0.99, 1), (1.5, 2), (2.5, 3)):
        widths = knapsack_with_removal(graph, values, terms, least - share * saved, losses)
        gone = [n for n in blocks if not widths[n]]
        assert len(gone) == count and gone == list(blocks)[:count] and price(widths) <= least - share * saved
    many = knapsack_with_removal(graph, values, terms, 0.99 * least, losses, free=True)
    assert sum(not many[n] for n in blocks) > 1
    near = {**values, **{g: {0: 0.0} for g in next(iter(blocks.values()))}}  # one has gone before
    widths = knapsack_with_removal(graph, near, terms, least - 1.5 * saved, losses)
    assert [n for n in blocks if not widths[n]] == list(blocks)[:2]


def solved(values, terms, limit, gone):
    rest = {**values, **{g: {0: 0.0} for block in gone for g in block}}
    try:
        return sum(rest[n][w] for n, w in knapsack(rest, terms, limit).items())
    except BudgetError:
        return -np.inf


class Branch(nn.Module):
    """A residual branch whose inner channels pass through `between`."""

    def __init__(self, between, inner, back):
        super().__init__()
        self.a, self.c, self.d, self.head = (
            nn.Conv2d(3, 16, 3, padding=1),
            nn.Conv2d(16, inner, 1),
            nn.Conv2d(back, 16, 1),
            nn.Conv2d(16, 5, 1),
        )
        self.between = between

    def forward(self, x):
        x = self.a(x)
        return self.head(F.relu(x + self.d(self.between(self.c(x)))))


def split(x):
    u, v = x.chunk(2, 1)
    return u * v


def shuffle(x):
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


@pytest.mark.parametrize(
    ("between", "inner", "back", "may"),
    [
        (split, 12, 6, False),
        (shuffle, 8, 8, False),
        (nn.BatchNorm2d(8, affine=False), 8, 8, False),
        (torch.relu, 8, 8, True),
    ],
    ids=["split", "shuffle", "norm without scale", "relu"],
)  # fmt: skip
def test_blocks_whose_operators_cannot_run_without_channels_stay(between, inner, back, may):
    net = Branch(between, inner, back)
    graph = find_groups(net, EXAMPLE)
    assert set(find_blocks(graph)) == {"c"}, "the channel graph alone does not show it"
    assert set(removable(net, graph, EXAMPLE)) == ({"c"} if may else set())
