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
from edgeprune.prune.criteria import CRITERIA, acosp, dcfp, fpgm, mtp, taylor
from edgeprune.prune.criteria.group_norm import GroupNorm
from edgeprune.prune.criteria.members import from_norms, relative
from edgeprune.prune.criteria.sirfp import SIRFP, edge_detail, similarity
from edgeprune.prune.groups import find_groups
from edgeprune.prune.worth import by_sum
from tests.prune import nets

X = torch.zeros(1, 3, 32, 32)
WATCHED = [nets.Residual, nets.Grouped, nets.Transposed, nets.Unpool, nets.SqueezeExcite, nets.Normed]


def loss_of(output) -> torch.Tensor:
    logits = output["out"] if isinstance(output, dict) else output
    return logits.square().mean()


def scored(criterion, net: nn.Module, graph, steps: int = 3) -> dict[str, np.ndarray]:
    """The criterion's scores after a few batches, the way that the prune stage gathers them."""
    taught = criterion.training == "must"
    criterion.attach(net, graph.groups)
    net.train(taught)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.01)
    for step in range(steps):
        torch.manual_seed(step)
        if taught:
            getattr(criterion, "before_step", lambda *a: None)(step, steps, 1.0)
        output = net(torch.randn(2, 3, 32, 32))
        value = loss_of(output)
        logits = output["out"] if isinstance(output, dict) else output
        if hasattr(criterion, "term") and logits.ndim == 4:
            value = value + criterion.term(value, output, torch.randint(0, 5, (2, 32, 32)))
        optimizer.zero_grad()
        value.backward()
        if hasattr(criterion, "after_backward"):
            criterion.after_backward()
        if taught:
            optimizer.step()
    criterion.detach()
    return criterion.scores()


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


PERMUTED = ["sirfp", "fpgm", "bn_scale", "taylor", "halp", "group_norm", "l1", "l2"]


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
