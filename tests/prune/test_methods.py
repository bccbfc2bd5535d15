"""Every criterion on every awkward network, and the specification's vectors of each method."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgeprune.prune.allocate import allocate, select
from edgeprune.prune.channels import Group, Member
from edgeprune.prune.criteria import CRITERIA, dcfp, fpgm, mtp, taylor
from edgeprune.prune.criteria.group_norm import GroupNorm
from edgeprune.prune.criteria.members import from_norms, relative
from edgeprune.prune.groups import find_groups
from edgeprune.prune.worth import by_sum
from tests.prune import nets
from tests.prune.scoring import loss_of, scored

X = torch.zeros(1, 3, 32, 32)


@pytest.mark.parametrize("build", nets.NETS)
def test_every_criterion_scores_every_unit_of_every_network(build):
    torch.manual_seed(0)
    net = build().eval()
    names = [n for n, _ in net.named_modules()]
    graph = find_groups(net, X)
    for name, make in CRITERIA.items():
        scores = scored(make(), net, graph)
        assert {g.name: (g.size,) for g in graph.groups} == {k: v.shape for k, v in scores.items()}, name
        assert all(not np.isnan(v).any() for v in scores.values()), name
        assert not any(m._forward_hooks for m in net.modules()), name
        assert [n for n, _ in net.named_modules()] == names, name  # gates are taken off again


@pytest.mark.parametrize("name", [n for n, made in CRITERIA.items() if made.training == "no" and n != "random"])
def test_constant_weights_and_dead_channels_do_no_harm(name):
    net = nets.Residual().eval()
    for p in net.parameters():
        nn.init.constant_(p, 0.5)
    graph = find_groups(net, X)
    assert all(np.isfinite(v).all() for v in scored(CRITERIA[name](), net, graph).values())
    for p in net.parameters():
        nn.init.zeros_(p)
    assert all(np.isfinite(v).all() for v in scored(CRITERIA[name](), net, graph).values())


PERMUTED = ["sirfp", "fpgm", "bn_scale", "taylor", "halp", "group_norm", "obs", "l1", "l2"]


@pytest.mark.parametrize("name", PERMUTED)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000))
def test_scores_move_with_their_channels(name, seed):
    torch.manual_seed(seed)
    net = nets.Residual().eval()
    for norm in (net.a[1], net.b[1], net.c[1]):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.5, 0.5)
    graph = find_groups(net, X)
    before = scored(CRITERIA[name](), net, graph, 1)["b.0"]
    order = torch.randperm(24, generator=torch.Generator().manual_seed(seed))
    net.zero_grad()
    with torch.no_grad():
        net.b[0].weight.copy_(net.b[0].weight[order])
        net.c[0].weight.copy_(net.c[0].weight[:, order])
        for t in (net.b[1].weight, net.b[1].bias, net.b[1].running_mean, net.b[1].running_var):
            t.copy_(t[order])
    after = scored(CRITERIA[name](), net, graph, 1)["b.0"]
    before = before[order.numpy()]
    if name == "sirfp":  # the last two share one redundancy, and the lower index goes first: only the pair moves
        last = np.argsort(before)[-2:]
        assert set(last) == set(np.argsort(after)[-2:])
        before, after = np.delete(before, last), np.delete(after, last)
    np.testing.assert_allclose(after, before, rtol=2e-3, atol=1e-6)


# FPGM


def test_fpgm_drops_the_filter_that_the_others_stand_in_for():
    d = fpgm.distances(torch.tensor([[0.0], [1], [2], [4], [10]]))
    assert d.tolist() == [17, 14, 13, 15, 33] and d.argmin() == 2  # L1 and L2 would drop the first
    left = fpgm.distances(torch.tensor([[0.0], [1], [2], [4], [10]]), norm_rate=0.6)  # 2, 4, 10 are left
    assert left[2:].tolist() == [10, 8, 14] and (left[:2] < 0).all() and left[0] < left[1]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.01, 100))
def test_fpgm_order_survives_scale_shift_and_permutation(seed, scale):
    w = torch.randn(12, 7, generator=torch.Generator().manual_seed(seed)).double()
    d = fpgm.distances(w)
    np.testing.assert_allclose(fpgm.distances(w * scale + 3), d * scale, rtol=1e-9)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    np.testing.assert_allclose(fpgm.distances(w[order]), d[order.numpy()])


def test_fpgm_a_ranks_raw_distances():
    torch.manual_seed(0)
    net = nets.Residual().eval()
    graph = find_groups(net, X)
    with torch.no_grad():
        net.b[0].weight *= 100
    raw, layered = (scored(CRITERIA[n](), net, graph) for n in ("fpgm_a", "fpgm"))
    assert raw["b.0"].min() > raw["a.0"].max() and layered["b.0"].mean() == pytest.approx(1)
    assert layered["a.0"].mean() == pytest.approx(2)  # two producers add up


# NS, BN-Scale


def test_ns_keeps_exactly_half():
    scores = {"l1": np.abs([0.9, -0.05, 0.4]), "l2": np.abs([0.3, 0.02, -0.6])}
    widths = allocate(scores, lambda w: float(sum(w.values())), 3, min_keep=0.1)
    kept = select(scores, widths)
    assert kept["l1"].tolist() == [0, 2] and kept["l2"].tolist() == [2]
    everything = np.sort(np.concatenate(list(scores.values())))
    assert (everything > everything[int(0.5 * 6)]).sum() == 2  # the trap of the public code: one too few


def test_ns_adds_the_sign_of_each_scale_and_bn_scale_reads_it():
    net = nets.Residual().train()
    graph = find_groups(net, X)
    with torch.no_grad():
        net.b[1].weight[:3] = torch.tensor([-2.0, 0.0, 3.0])
    ns = CRITERIA["ns"](strength=0.5)
    ns.attach(net, graph.groups)
    loss_of(net(torch.randn(2, 3, 32, 32))).backward()
    before = net.b[1].weight.grad.clone()
    ns.after_backward()
    torch.testing.assert_close((net.b[1].weight.grad - before)[:3], torch.tensor([-0.5, 0.0, 0.5]))
    assert ns.scores()["b.0"][:3].tolist() == [2, 0, 3]


def test_residual_groups_take_the_highest_norm_or_their_mean_and_groups_without_a_norm_stay():
    index = np.array([1, 0])
    group = Group("g", 2, [Member("n1", "norm", index), Member("n2", "norm", np.array([0, 1]))])
    values = {"n1": np.array([1.0, 4.0]), "n2": np.array([2.0, 3.0])}
    assert from_norms([group], values)["g"].tolist() == [4, 3]
    assert from_norms([group], values, "mean")["g"].tolist() == [3, 2]
    assert np.isinf(from_norms([Group("h", 2, [Member("c", "out", index)])], values)["h"]).all()


def test_of_norms_in_series_the_lowest_counts():
    net = nets.Separable().eval()
    graph = find_groups(net, X)
    nn.init.uniform_(net.a[1].weight, 0.5, 1)
    nn.init.uniform_(net.depth[1].weight, 0.5, 1)
    with torch.no_grad():
        net.a[1].weight[3], net.depth[1].weight[5] = 0.1, 0.0
    found = scored(CRITERIA["bn_scale"](), net, graph)["a.0"]
    assert found.argsort()[:2].tolist() == [5, 3]
    np.testing.assert_allclose(found, torch.minimum(net.a[1].weight, net.depth[1].weight).detach().abs())


# Taylor, HALP


def test_taylor_keeps_signs_within_a_filter_and_within_a_group():
    layer = nn.Conv2d(2, 1, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([2.0, -1.0]).view(1, 2, 1, 1))
    layer.weight.grad = torch.tensor([0.5, 3.0]).view(1, 2, 1, 1)
    assert taylor.products(layer).tolist() == [-2]  # 1 - 3, whose absolute value is 2 and not 4
    index = np.array([0])
    group = Group("g", 1, [Member("x", "out", index), Member("y", "out", index)])
    assert taylor.signed(group, {"x": np.array([2.0]), "y": np.array([-2.0])}, "weight").tolist() == [0]


def test_taylor_predicts_what_silencing_a_little_does():
    torch.manual_seed(0)
    net = nets.Residual().eval().double()
    graph = find_groups(net, X.double())
    image = torch.randn(2, 3, 32, 32).double()
    criterion = CRITERIA["taylor"](power=1)
    criterion.attach(net, graph.groups)
    value = loss_of(net(image))
    value.backward()
    criterion.after_backward()
    score = criterion.scores()["b.0"]
    with torch.no_grad():
        net.b[0].weight[3] *= 1 - 1e-6
        change = (loss_of(net(image)) - value).abs() / 1e-6
    assert score[3] == pytest.approx(float(change), rel=1e-3)


def test_filters_in_front_of_a_training_norm_have_no_first_order_effect():
    torch.manual_seed(0)
    net = nets.Residual().train()
    loss_of(net(torch.randn(2, 3, 32, 32))).backward()
    still = np.abs(taylor.products(net.b[0])).max()
    assert still < 1e-4 * float(net.b[0].weight.grad.abs().max())


def test_halp_averages_absolute_values_of_signed_sums():
    net = nets.Residual().eval()
    graph = find_groups(net, X)
    halp = CRITERIA["halp"]()
    halp.attach(net, graph.groups)
    for sign in (1.0, -1.0):
        for norm in (net.a[1], net.b[1], net.c[1]):
            norm.weight.grad = torch.full_like(norm.weight, sign)
            norm.bias.grad = torch.full_like(norm.bias, 5.0)  # beta is 0
        halp.after_backward()
    scores = halp.scores()
    assert (scores["b.0"] == 1).all() and (scores["a.0"] == 2).all()


def test_halp_blocks_are_worth_the_sum_of_their_saliencies():
    values = by_sum({"a": np.array([1.0, 9, 4]), "b": np.array([np.inf, 2.0])}, {"a": [1, 2, 3], "b": [1, 2]})
    assert values == {"a": {1: 9, 2: 13, 3: 14}, "b": {1: 9, 2: 11}}


# DCFP


def test_eic_counts_only_gradients_that_shrink_the_scale():
    e, seen = torch.zeros(1), []
    for g in (1.0, -4.0, 3.0):
        e = dcfp.eic(e, torch.tensor([2.0]), torch.tensor([g]), 0.5)
        seen.append(float(e))
    assert seen == [0.5, 0.5, 1.75]
    assert float(dcfp.eic(torch.zeros(1), torch.tensor([-2.0]), torch.tensor([-4.0]), 0.5)) == 2.0


def test_a_gradient_that_overflowed_does_not_stay_in_the_running_mean():
    """The first steps of fp16 training overflow as a rule; the loss scaler skips them."""
    seen = dcfp.eic(torch.ones(3), torch.ones(3), torch.tensor([torch.inf, torch.nan, 3.0]), 0.5)
    assert seen.tolist() == [1, 1, 2]


# group norm


def test_group_norm_counts_producers_norms_and_readers():
    torch.manual_seed(0)
    net = nets.Residual().eval()
    graph = find_groups(net, X)
    found = scored(GroupNorm("none"), net, graph)
    w = (net.b[0].weight.square().flatten(1).sum(1), net.b[1].weight.square())
    reader = net.c[0].weight.square().sum(dim=(0, 2, 3))
    np.testing.assert_allclose(found["b.0"], (w[0] + w[1] + reader).sqrt().detach().numpy(), rtol=1e-5)
    bare = scored(GroupNorm("none", norms=False, consumers=False), net, graph)
    np.testing.assert_allclose(bare["b.0"], w[0].sqrt().detach().numpy(), rtol=1e-5)


def test_group_norm_orders_as_torch_pruning_does():
    import torch_pruning as tp

    torch.manual_seed(0)
    net = nets.Residual().eval()
    ours = scored(GroupNorm("none"), net, find_groups(net, X))
    graph = tp.DependencyGraph().build_dependency(net, example_inputs=X)
    importance = tp.importance.GroupMagnitudeImportance(p=2, group_reduction="sum", normalizer=None)
    for name, conv in (("a.0", net.a[0]), ("b.0", net.b[0])):
        group = graph.get_pruning_group(conv, tp.prune_conv_out_channels, idxs=list(range(conv.out_channels)))
        np.testing.assert_allclose(ours[name] ** 2, importance(group).detach().numpy(), rtol=1e-5)


# ACoSP


# MTP


def test_mtp_vector():
    seg, cls = np.array([4.0, 1, 1]), np.array([1.0, 4, 1])
    assert mtp.combined(seg, cls, 0).argmax() == 0
    both = mtp.combined(seg, cls, 1)
    assert both[0] == pytest.approx(both[1]) and both.argmin() == 2
    np.testing.assert_allclose(mtp.combined(seg, 1000 * cls, 0.5), mtp.combined(seg, cls, 0.5))
    np.testing.assert_allclose(mtp.combined(seg, 0 * cls, 0.5), mtp.combined(seg, cls, 0))


def test_mtp_reads_presence_off_the_mask_and_judges_the_head_by_segmentation_alone():
    labels = torch.tensor([[[0, 2], [255, 2]], [[1, 1], [1, 1]]])
    assert mtp.presence(labels, 3).tolist() == [[1, 0, 1], [0, 1, 0]]
    torch.manual_seed(0)
    net = nets.Residual().train()
    graph = find_groups(net, X)
    found = {}
    for backbone in ("*", "b.*"):
        torch.manual_seed(1)
        criterion = mtp.MTP(every=1, backbone=backbone)
        criterion.attach(net, graph.groups)
        output = net(torch.randn(2, 3, 32, 32))
        criterion.term(loss_of(output), output, torch.randint(0, 5, (2, 32, 32)))
        found[backbone] = criterion.scores()
        assert all(p.grad is None for p in net.parameters())  # scoring leaves the training's gradients alone
    np.testing.assert_allclose(found["*"]["b.0"], found["b.*"]["b.0"], rtol=1e-4)
    assert np.linalg.norm(found["b.*"]["a.0"]) == pytest.approx(1) and not np.allclose(
        found["*"]["a.0"], found["b.*"]["a.0"]
    )


# SIRFP's second round


@pytest.mark.parametrize("name", ["l1", "l2", "fpgm", "group_norm", "taylor"])
def test_a_layers_scale_does_not_matter_where_layers_are_normalised(name):
    """Scaling every weight that goes with a group scales its scores alike; dividing by the layer's mean undoes it."""
    torch.manual_seed(0)
    net = nets.Residual().eval()
    graph = find_groups(net, X)
    before = scored(CRITERIA[name](normalise="layer"), net, graph, 1)["b.0"]
    net.zero_grad()
    with torch.no_grad():
        for p in (net.b[0].weight, net.b[1].weight, net.c[0].weight):
            p *= 7
        if name == "taylor":  # the same function: what was gained is taken back
            net.c[1].weight /= 7
            net.c[1].running_mean *= 7
            net.b[1].running_mean *= 7
            net.b[1].weight /= 49
    after = scored(CRITERIA[name](normalise="layer"), net, graph, 1)["b.0"]
    np.testing.assert_allclose(after, before, rtol=1e-3)


def test_state_goes_through_a_file_and_back(tmp_path):
    torch.manual_seed(0)
    net = nets.Residual()
    graph = find_groups(net, X)
    for name, make in CRITERIA.items():
        first = make()
        if not hasattr(first, "state"):
            continue
        expected = scored(first, net, graph)
        torch.save(first.state(), tmp_path / "s.pt")
        second = make()
        second.attach(net, graph.groups)
        second.load_state(torch.load(tmp_path / "s.pt", weights_only=True))
        second.detach()
        for group, values in second.scores().items():
            np.testing.assert_array_equal(values, expected[group], err_msg=f"{name} {group}")


def test_relative_values_of_nothing_are_finite():
    assert relative(np.zeros(3)).tolist() == [0, 0, 0] and math.isclose(relative(np.array([1.0, 3.0]))[1], 1.5)
