from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from edgeprune.errors import SurgeryError
from edgeprune.profile.macs import count_macs, count_params
from edgeprune.prune import cost, proof
from edgeprune.prune.allocate import allocate, floors
from edgeprune.prune.criteria.members import from_norms
from edgeprune.prune.groups import find_groups, grouped
from edgeprune.prune.plan import Plan, compose, make_plan, read_plan, save_plan
from edgeprune.prune.proof import _difference, at_fault, prove
from edgeprune.prune.surgery import fold_constants, shrink
from edgeprune.prune.worth import candidates
from tests.prune import nets

EXAMPLE = torch.zeros(2, 3, 32, 32)


def random_plan(net, graph, seed=0):
    rng = np.random.default_rng(seed)
    keep = {g.name: rng.permutation(g.size)[: rng.integers(1, g.size + 1)] for g in graph.groups}
    return make_plan(net, graph, keep)


def names(graph):
    return {g.name: g.size for g in graph.groups}


@pytest.mark.parametrize("build", nets.NETS, ids=lambda n: n.__name__)
@pytest.mark.parametrize("seed", range(3))
def test_proof_holds_for_random_plans(build, seed):
    net = build()
    graph = find_groups(net, EXAMPLE)
    plan = random_plan(net, graph, seed)
    proof = prove(net, graph, plan, EXAMPLE)
    assert max(proof.silenced, proof.folded) < 1e-5
    small = shrink(net, plan)
    assert cost.total(cost.params(graph))(plan.widths) == count_params(small, EXAMPLE.shape[2:])


def test_unpool_indices_keep_pairs_together():
    assert names(find_groups(nets.Unpool(), EXAMPLE)) == {"a.0": 16, "c.0": 12}


def test_residual_add_ties_the_branches():
    group = find_groups(nets.Residual(), EXAMPLE).groups[0]
    assert group.producers == ["a.0", "c.0"]


def test_grouped_convolution_prunes_the_same_place_in_every_group():
    assert names(find_groups(nets.Grouped(), EXAMPLE)) == {"a.0": 4, "g.0": 8}


def test_channel_shuffle_ties_its_rows():
    assert names(find_groups(nets.ChannelShuffle(), EXAMPLE)) == {"a.0": 8, "b.0": 12}


def test_fixed_split_unknown_operator_and_group_norm_are_not_pruned():
    for build, module in ((nets.SplitFixed, "a.0"), (nets.UnknownOperator, "a.0"), (nets.Normed, "a")):
        graph = find_groups(build(), EXAMPLE)
        assert module in graph.unprunable
        assert module not in names(graph)


def test_what_is_computed_or_odd_is_kept_and_the_rest_goes():
    for build, kept, why, goes in (
        (nets.Blurred, "a.0", "grouped convolution that is no Conv2d", {"b.0": 12}),
        (nets.Standardised, "a.0", "a weight that is computed", {"c.0": 8}),
        (nets.OddForms, "a.0", "pooled or resized over the channels", {"c.0": 6}),
        (nets.OddForms, "b.0", "operator aten.pow is not known in this form", {"c.0": 6}),
        (nets.OwnConvolution, "a.0", "read by a weight that is no module of torch's own", {"c.0": 8}),
        (nets.SamePadded, "head", "an output of the network", {"a.0": 16, "b": 12}),
    ):
        graph = find_groups(build(), EXAMPLE)
        assert names(graph) == goes
        assert graph.unprunable[kept] == why


def test_embeddings_heads_and_channel_sums_stay_and_say_why():
    graph = find_groups(nets.Tokens(), EXAMPLE)
    assert names(graph) == {"up": 16, "last": 12}
    assert "layer norm" in graph.unprunable["embed"] and "attention" in graph.unprunable["q"]
    graph = find_groups(nets.PixelGate(), EXAMPLE)
    assert names(graph) == {"a.0": 12} and graph.groups[0].producers == ["a.0", "b.0"]
    assert graph.unprunable["x"] == graph.unprunable["y"] == "sum over the channels"


def test_a_slope_a_channel_goes_with_its_channel():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.Conv2d(8, 5, 1))
    graph = find_groups(net, EXAMPLE)
    small = shrink(net, make_plan(net, graph, {"0": np.array([1, 6])}))
    assert torch.equal(small[1].weight, net[1].weight[[1, 6]]) and small[1].num_parameters == 2


@pytest.mark.parametrize("build", [nets.Tokens, nets.PixelGate])
def test_attention_norms_and_nearest_resizing_are_counted_as_fvcore_counts_them(build):
    net = build()
    graph = find_groups(net, torch.zeros(1, 3, 32, 32))
    plan = random_plan(net, graph)
    assert cost.total(cost.macs(graph))(plan.widths) == count_macs(shrink(net, plan), (32, 32))


def test_a_gate_that_is_expanded_goes_with_its_map():
    graph = find_groups(nets.ExpandedGate(), EXAMPLE)
    assert names(graph) == {"a.0": 16, "fc.0": 4} and set(graph.groups[0].producers) == {"a.0", "fc.2"}
    assert "register_buffer" in graph.unprunable["b.0"]


def test_attention_counts_the_same_in_every_form():
    counted = {form: count_macs(nets.Attended(form), (32, 32)) for form in ("matmul", "bmm", "fused", "einsum")}
    graphs = {form: find_groups(nets.Attended(form), torch.zeros(1, 3, 32, 32)) for form in counted}
    planned = {form: cost.total(cost.macs(graph))(graph.widths()) for form, graph in graphs.items()}
    assert counted["matmul"] == counted["bmm"] == counted["fused"] == pytest.approx(counted["einsum"], rel=0.01)
    assert planned["matmul"] == planned["bmm"] == planned["fused"] == counted["matmul"]


def test_classifier_frozen_and_named_layers_stay():
    net = nets.Residual()
    assert "head" in find_groups(net, EXAMPLE).unprunable
    assert names(find_groups(net, EXAMPLE, never=["b.*"])) == {"a.0": 16}
    net.b[0].weight.requires_grad_(False)
    # b.0's own channels and the channels that it reads are both part of the frozen weight
    assert names(find_groups(net, EXAMPLE)) == {}


def test_modes_and_weights_are_left_alone():
    net = nets.Residual().train()
    net.b.eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    graph = find_groups(net, EXAMPLE)
    prove(net, graph, random_plan(net, graph), EXAMPLE)
    assert net.training and not net.b.training and net.a.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_a_broken_surgery_is_caught():
    net = nets.Residual()
    graph = find_groups(net, EXAMPLE)
    plan = make_plan(net, graph, {"b.0": np.arange(12)})
    wrong = {t: {a: list(k) for a, k in axes.items()} for t, axes in plan.tensors.items()}
    wrong["c.0.weight"][1] = list(range(12, 24))  # the reader keeps other channels than the writer
    broken = Plan(plan.keep, plan.sizes, wrong, plan.source)
    with pytest.raises(SurgeryError, match=r"differ by .*; no group of channels alone makes it so"):
        prove(net, graph, broken, EXAMPLE)


class Taught(nn.Module):
    """An auxiliary head that is there in training only."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head, self.aux = (
            nets.block(3, 16),
            nets.block(16, 16),
            nn.Conv2d(16, 5, 1),
            nn.Conv2d(16, 5, 1),
        )

    def forward(self, x):
        x = self.a(x)
        out = {"out": self.head(self.b(x))}
        return out | {"aux": self.aux(x)} if self.training else out


def test_what_runs_in_training_alone_is_refused_before_anything_is_trained():
    net, example = Taught().eval(), torch.zeros(1, 3, 16, 16)
    graph = find_groups(net, example)
    plan = make_plan(net, graph, {g.name: np.arange(0, g.size, 2) for g in graph.groups})
    with pytest.raises(
        SurgeryError,
        match=r"does not run in training mode .* auxiliary head.*cutting a\.0 makes it so: try prune.never: \[a\.0\]",
    ):
        prove(net, graph, plan, example)
    spared = find_groups(net, example, ["a"])
    plan = make_plan(net, spared, {g.name: np.arange(0, g.size, 2) for g in spared.groups})
    prove(net, spared, plan, example)


def test_never_names_layers_and_what_holds_them():
    from edgeprune.prune.groups import matches

    assert matches("backbone.layer1.conv", "backbone") and matches("backbone.layer1.conv", "*.conv")
    assert not matches("backbone2.conv", "backbone")


def test_a_width_written_in_the_code_is_refused():
    class Hard(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.head = nets.block(3, 16), nn.Conv2d(16, 5, 1)

        def forward(self, x):
            x = self.a(x)
            return self.head(x.view(x.shape[0], 4, 4, *x.shape[2:]).reshape(x.shape[0], 16, *x.shape[2:]))

    net = Hard()
    graph = find_groups(net, EXAMPLE)
    with pytest.raises(SurgeryError, match=r"does not run.*written in its forward.*cutting a\.0 makes it so"):
        prove(net, graph, make_plan(net, graph, {"a.0": np.arange(2)}), EXAMPLE)


@pytest.mark.parametrize(("bad", "found"), [("c", "c"), ("ah", "ah"), ("abcdefgh", "abc"), ("", "")])
def test_groups_at_fault_are_found_by_halves(bad, found):
    asked = []

    def fails(names):
        asked.append(names)
        return not set(bad).isdisjoint(names)

    assert at_fault("abcdefgh", fails) == list(found)
    assert len(asked) <= 13, "not each of them with all others"


def test_groups_that_fail_only_together_are_not_accused():
    assert at_fault("abcd", lambda names: {"a", "d"} <= set(names)) == []


def test_plan_round_trip_and_refusals(tmp_path):
    net = nets.Twice()
    graph = find_groups(net, EXAMPLE)
    plan = random_plan(net, graph)
    save_plan(tmp_path / "plan.json", plan, {"network": "x"})
    again, network = read_plan(tmp_path / "plan.json")
    assert again == plan and network == {"network": "x"}
    with pytest.raises(SurgeryError, match="another structure"):
        shrink(nets.Residual(), plan)
    with pytest.raises(SurgeryError, match="would vanish"):
        make_plan(net, graph, {graph.groups[0].name: np.array([], dtype=int)})
    (tmp_path / "plan.json").write_text('{"groups": {}}')
    with pytest.raises(SurgeryError, match="not a plan"):
        read_plan(tmp_path / "plan.json")


def test_folding_is_exact_away_from_padded_borders_only():
    from edgeprune.prune.proof import _randomised
    from edgeprune.prune.surgery import fold_constants

    net = _randomised(nets.TwoOutputs(), 0)
    graph = find_groups(net, EXAMPLE)
    small, full = fold_constants(net, graph, make_plan(net, graph, {"a.0": np.arange(5)}), EXAMPLE)
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        difference = (small(x)["out"] - full(x)["out"]).abs()
    assert difference[..., 1:-1, 1:-1].max() < 1e-5 < difference.max()


def test_what_only_an_auxiliary_head_reads_stays_and_does_not_count():
    class Aux(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 5, 1)
            self.aux, self.head = nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 5, 1)

        def forward(self, x):
            x = self.a(x).relu()
            return {"out": self.out(x), "aux": self.head(self.aux(x).relu())}

    net = Aux()
    graph = find_groups(net, EXAMPLE)
    assert names(graph) == {"a": 8} and graph.unprunable["aux"].startswith("only an output that does not ship")
    shipped = sum(p.numel() for m in (net.a, net.out) for p in m.parameters())
    assert cost.total(cost.params(graph))({"a": 8}) == count_params(net, (32, 32)) == shipped
    net.a.weight.requires_grad_(False)
    assert count_params(net, (32, 32)) == shipped and not net.a.weight.requires_grad
    small = shrink(net, make_plan(net, graph, {"a": np.arange(3)}))
    assert cost.total(cost.params(graph))({"a": 3}) == count_params(small, (32, 32))


def test_a_convolution_of_one_channel_is_not_depthwise():
    net = nn.Sequential(nn.Conv2d(3, 1, 1), nn.ReLU(), nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 5, 1))
    graph = find_groups(net, EXAMPLE)
    assert names(graph) == {"0": 1, "2": 32}
    op = graph.operations[1]
    assert op.inputs is not None and op.inputs.at({"0": 1, "2": 4}) == 1 and op.signature.groups == 1
    plan = make_plan(net, graph, {"0": np.arange(1), "2": np.arange(4)})
    proof = prove(net, graph, plan, EXAMPLE)
    assert max(proof.silenced, proof.folded) < 1e-5


def test_a_convolution_that_two_norms_read_has_no_norm_behind_it():
    class Levels(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.shared = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)
            self.one, self.two, self.head = nn.BatchNorm2d(8), nn.BatchNorm2d(8), nn.Conv2d(8, 5, 1)

        def forward(self, x):
            x = self.a(x).relu()
            fine, coarse = self.one(self.shared(x)), self.two(self.shared(x[..., ::2, ::2]))
            return self.head(fine.relu()) + self.head(coarse.relu()).mean((2, 3), keepdim=True)

    torch.manual_seed(0)
    net = Levels()
    graph = find_groups(net, EXAMPLE)
    assert "shared" not in graph.norm_behind
    keep = {g.name: np.arange(g.size // 2) for g in graph.groups}
    proof = prove(net, graph, make_plan(net, graph, keep), EXAMPLE)
    assert max(proof.silenced, proof.folded) < 1e-5


def test_convolutions_padded_by_name_are_counted():
    """fvcore has no handler for them, and a budget in MACs would count nothing."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding="same"), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
    assert count_macs(net, (16, 16)) == 16 * 16 * 9 * (3 * 8 + 8 * 4)
    assert cost.total(cost.macs(find_groups(net, torch.zeros(1, 3, 16, 16))))({"0": 8}) == count_macs(net, (16, 16))


@pytest.mark.parametrize("build", [nets.BranchWeights, nets.ScalarGate], ids=lambda n: n.__name__)
@pytest.mark.parametrize("seed", range(3))
def test_what_a_gate_makes_of_one_image_is_no_constant(build, seed):
    """Flat in space, and another in the next image: it may not be folded into what follows."""
    torch.manual_seed(seed)
    net = proof._randomised(build(), seed)
    graph = find_groups(net, EXAMPLE)
    plan = make_plan(net, graph, {g.name: np.arange(g.size // 2, g.size) for g in graph.groups})
    assert prove(net, graph, plan, EXAMPLE).folded < 1e-5
    small, full = fold_constants(net, graph, plan, EXAMPLE)
    for image in (torch.randn(2, 3, 32, 32), torch.full((2, 3, 32, 32), 2.0), 0.3 * torch.randn(2, 3, 32, 32) - 1.5):
        with torch.no_grad():
            a, b = (n.eval()(image)[..., 4:-4, 4:-4] for n in (full, small))
        assert float((a - b).abs().max()) < 1e-4 * float(a.abs().max())


def test_a_norm_of_two_convolutions_takes_no_constant_of_one():
    net = proof._randomised(nets.SharedNorm(), 0)
    graph = find_groups(net, EXAMPLE)
    assert not {"b", "c"} & graph.norm_behind.keys() and graph.norm_behind["a.0"] == "a.1"
    assert prove(net, graph, random_plan(net, graph), EXAMPLE).folded < 1e-5


def test_norms_called_in_a_loop_follow_nobody():
    graph = find_groups(nets.Looped(), EXAMPLE)
    (group,) = graph.groups
    assert [m.behind for m in group.members if m.kind == "norm"] == [""]
    assert np.isfinite(from_norms([group], {"n": np.ones(16)})["a"]).all()


def test_a_cut_convolution_with_groups_is_not_taken_for_a_depthwise_one():
    net = nets.Grouped()
    graph = find_groups(net, EXAMPLE)
    first = make_plan(net, graph, {"a.0": np.array([1]), "g.0": np.arange(4)})
    small = shrink(net, first)
    assert small.g[0].groups == small.g[0].in_channels
    assert names(find_groups(small, EXAMPLE))["a.0"] == 4, "four channels that could go one by one"
    again = find_groups(small, EXAMPLE, tied=grouped(net))
    assert names(again) == {"a.0": 1, "g.0": 4}
    second = make_plan(small, again, {"g.0": np.arange(2)})
    prove(small, again, second, EXAMPLE)
    assert compose(net, graph, first, second).widths == {"a.0": 1, "g.0": 2}


def test_a_unit_of_several_channels_is_a_step_by_itself():
    graph = find_groups(nets.Grouped(), EXAMPLE)
    assert [g.channels for g in graph.groups] == [4, 4]
    assert graph.steps(8) == {"a.0": 2, "g.0": 2} and graph.steps(2) == {"a.0": 1, "g.0": 1}
    scores = {g.name: np.arange(g.size, dtype=float) for g in graph.groups}
    assert floors(scores, 0.02, graph.steps(8)) == {"a.0": 2, "g.0": 2}
    options = candidates(graph.widths(), floors(scores, 0.02, graph.steps(8)), graph.steps(8))
    assert options == {"a.0": [2, 4], "g.0": [2, 4, 6, 8]}
    price = cost.total(cost.channels(graph))
    widths = allocate(scores, price, 0.6 * price(graph.widths()), how="uniform", step=graph.steps(8))
    assert widths == {"a.0": 2, "g.0": 4}


def test_the_proof_compares_what_is_floating_point_and_refuses_where_nothing_is():
    @dataclass
    class Fields:
        first: torch.Tensor
        classes: torch.Tensor

    def answering(form):
        net = nn.Identity()
        net.forward = lambda x: form(x.mean(1))
        return net

    both, one = answering(lambda y: Fields(y, y > 0)), answering(lambda y: Fields(y + 1, y > 1))
    assert _difference(both, both, [EXAMPLE + 1], "test") == 0.0 < _difference(both, one, [EXAMPLE + 1], "test")
    with pytest.raises(SurgeryError, match="of 0 floating-point outputs the pruned network gives 0"):
        _difference(*[answering(lambda y: {"classes": y > 0})] * 2, [EXAMPLE], "test")
    with pytest.raises(SurgeryError, match="of 1 floating-point outputs the pruned network gives 2"):
        _difference(both, answering(lambda y: [y, y]), [EXAMPLE], "test")
