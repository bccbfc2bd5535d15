import contextlib
import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgeprune import models
from edgeprune.data import open_dataset
from edgeprune.data.loader import train_loader
from edgeprune.errors import EdgepruneError, ModelError
from edgeprune.recipe import Distill, Loss, Train
from edgeprune.train.distill import logits_loss, make_term, relation_loss
from edgeprune.train.imitate import imitate
from edgeprune.train.loop import Hooks, fingerprint, learning_rate, train
from edgeprune.train.losses import class_weights, cross_entropy, gsrl, gsrl_weights, make_loss, ohem, rarity
from edgeprune.train.recalibrate import recalibrate

LOGITS = torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(0, 4, (2, 6, 8), generator=torch.Generator().manual_seed(1))
LOSS = make_loss(Loss(), None)


def test_cross_entropy_is_torchs_and_survives_nothing_to_judge():
    labels = LABELS.clone()
    labels[0, :3] = 255
    weights = torch.tensor([1.0, 2, 3, 4])
    for w in (None, weights):
        torch.testing.assert_close(
            cross_entropy(LOGITS, labels, w), F.cross_entropy(LOGITS, labels, w, ignore_index=255)
        )
    assert cross_entropy(LOGITS, torch.full_like(LABELS, 255)) == 0
    assert ohem(LOGITS, torch.full_like(LABELS, 255), None, 0.7, 0.1) == 0


def test_ohem_takes_the_hard_pixels():
    each = F.cross_entropy(LOGITS, LABELS, reduction="none").flatten()
    hard = each[each > -np.log(0.3)]
    torch.testing.assert_close(ohem(LOGITS, LABELS, None, 0.3, 0.0), hard.mean())
    sure = F.one_hot(LABELS, 4).permute(0, 3, 1, 2).float() * 20  # nothing is hard: the least share counts
    assert ohem(sure, LABELS, None, 0.7, 0.5).isfinite()


def test_class_weights():
    labels = [np.repeat(np.array([0, 1, 2], np.uint8), [70, 20, 10])]
    median = class_weights("median", labels, 3)
    assert median is not None
    torch.testing.assert_close(median / median[1], torch.tensor([20 / 70, 1, 2]))
    root = class_weights("inverse_sqrt", labels, 4)
    assert root is not None and root.isfinite().all() and root[3] == root.max() and abs(float(root.mean()) - 1) < 1e-6
    assert class_weights("none", labels, 3) is None


def test_auxiliary_heads_count_by_their_weight():
    loss = make_loss(Loss(aux_weight=0.5), None)
    one = cross_entropy(LOGITS, LABELS)
    torch.testing.assert_close(loss({"out": LOGITS, "aux": LOGITS}, LABELS), 1.5 * one)
    torch.testing.assert_close(loss(LOGITS, LABELS), one)


def test_gsrl_rarity_is_the_ratio_of_effective_numbers():
    labels = torch.tensor([[[0, 0, 0, 1], [0, 0, 2, 255]]])  # 5, 1 and 1 pixels
    expected = (1 + 1e-8 - 0.9) / (1 + 1e-8 - 0.9**5)
    found = rarity(labels, 4, "rarest", beta=0.9)
    torch.testing.assert_close(found, torch.tensor([[[expected] * 3 + [1], [expected] * 2 + [1, 0]]]))
    torch.manual_seed(0)
    drawn = {round(float(rarity(labels, 4, "drawn", beta=0.9)[0, 0, 0]), 4) for _ in range(30)}
    assert drawn == {round(expected, 4), 1.0}  # where the frequent class is drawn, the rare ones are clipped to 1
    nothing = torch.full((1, 2, 2), 255)
    assert rarity(nothing, 4).tolist() == [[[0, 0], [0, 0]]]


def test_gsrl_rarity_refers_to_the_class_that_was_drawn():
    labels = torch.tensor([[[0, 0, 0, 1], [0, 0, 2, 255]]] * 3)
    expected = (1 + 1e-8 - 0.9) / (1 + 1e-8 - 0.9**5)
    for _ in range(5):
        found = rarity(labels, 4, "drawn", torch.tensor([1, 0, 2]), beta=0.9)
        assert found[:, 0, 0].tolist() == pytest.approx([expected, 1, expected])
    gone = {round(float(rarity(labels[:1], 4, "drawn", torch.tensor([3]), beta=0.9)[0, 0, 0]), 4) for _ in range(30)}
    assert gone == {round(expected, 4), 1.0}  # of what the view has lost nothing is known: any that is there
    wide = torch.zeros(1, 60, 60, dtype=torch.int64)
    wide[0, :5, :5] = 1
    logits = torch.randn(1, 4, 60, 60, generator=torch.Generator().manual_seed(2))
    loss, found = make_loss(Loss(kind="gsrl"), None), []
    for c in (0, 1):
        pixels = gsrl_weights(logits, rarity(wide, 4, "drawn", torch.tensor([c])))
        found.append(loss(logits, wide, torch.tensor([c])))
        torch.testing.assert_close(found[-1], gsrl(logits, wide, pixels))
    assert abs(float(found[0] - found[1])) > 1e-3


def test_gsrl_widens_weights_and_doubts():
    logits = torch.zeros(1, 2, 11, 11)
    logits[0, 0, 0, 0] = 100.0  # sure there, in doubt elsewhere
    rare = torch.zeros(1, 11, 11)
    rare[0, 5, 5] = 0.5
    found = gsrl_weights(logits, rare)
    assert found[0, 1, 1] == 5 and found[0, 0, 0] == 0 and found[0, 9, 9] == 5 and found[0, 10, 10] == 0
    rare[0, 0, 0] = 0.5
    assert gsrl_weights(logits, rare)[0, 0, 0] == 0.5


def test_gsrl_is_a_weighted_mean_an_image():
    labels = LABELS.clone()
    labels[0, :3] = 255
    torch.testing.assert_close(
        gsrl(LOGITS, labels, torch.ones(LABELS.shape)),
        (cross_entropy(LOGITS[:1], labels[:1]) + cross_entropy(LOGITS[1:], labels[1:])) / 2,
    )
    weights = torch.rand(LABELS.shape, generator=torch.Generator().manual_seed(0))
    each = F.cross_entropy(LOGITS, LABELS, reduction="none")
    by_hand = np.mean([float((each[i] * weights[i]).sum() / weights[i].sum()) for i in range(2)])
    assert float(gsrl(LOGITS, LABELS, weights)) == pytest.approx(by_hand, rel=1e-5)
    assert gsrl(LOGITS, torch.full_like(LABELS, 255), weights) == 0


def test_gsrl_weighs_the_auxiliary_head_by_the_main_heads_doubt():
    logits, aux = LOGITS.clone().requires_grad_(), LOGITS.flip(1)
    loss = make_loss(Loss(kind="gsrl", gsrl_class="rarest", aux_weight=0.4), None)
    pixels = gsrl_weights(LOGITS, rarity(LABELS, 4, "rarest"))
    expected = gsrl(LOGITS, LABELS, pixels) + 0.4 * gsrl(aux, LABELS, pixels)
    found = loss({"aux": aux, "out": logits}, LABELS)
    torch.testing.assert_close(found, expected)
    found.backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_a_dict_has_its_logits_under_one_of_two_names():
    torch.testing.assert_close(LOSS({"logits": LOGITS}, LABELS), LOSS(LOGITS, LABELS))
    assert models.logits_of({"aux": LABELS, "logits": LOGITS}) is LOGITS
    with pytest.raises(ModelError, match="gives a dict of 'aux'; its logits belong under 'out'"):
        models.logits_of({"aux": LOGITS})


def test_schedules():
    cfg = Train(steps=100, lr=1.0, warmup_steps=10)
    assert learning_rate(cfg, 0, 100) == pytest.approx(0.1) and learning_rate(cfg, 10, 100) == 1
    assert learning_rate(cfg, 55, 100) == pytest.approx(0.5**0.9)
    assert learning_rate(cfg.model_copy(update={"schedule": "cosine"}), 55, 100) == pytest.approx(0.5)


def test_distillation_terms_vanish_for_the_teacher_itself():
    torch.testing.assert_close(logits_loss(LOGITS, LOGITS, LABELS, 2.0), torch.tensor(0.0), atol=1e-6, rtol=0)
    assert logits_loss(LOGITS, LOGITS.flip(1), LABELS, 2.0) > 0.1
    features = torch.randn(2, 16, 3, 4)
    assert relation_loss(features, features, LABELS, 4) < 1e-10
    assert relation_loss(features[:, :5], features, LABELS, 4) > 0  # other widths are no obstacle


def test_features_of_many_pixels_stay_within_half_precision():
    labels = torch.zeros(1, 64, 64, dtype=torch.long)
    labels[:, 32:] = 1
    features = 100 * torch.rand(1, 8, 64, 64)  # a class's sum is far beyond 65504
    with torch.autocast("cpu", torch.float16):
        half = relation_loss(features[:, :5], features.flip(2), labels, 2)
    torch.testing.assert_close(half, relation_loss(features[:, :5], features.flip(2), labels, 2))


def test_an_imitation_that_is_done_again_drops_the_same_units():
    student, loader, cfg = setup()
    found = []
    for _ in range(2):  # the second time with whatever has been drawn meanwhile
        healed = copy.deepcopy(student)
        found.append((imitate(healed, student, loader.stream(), 3, cfg), fingerprint(healed)))
    assert found[0] == found[1]


def test_features_are_tapped_before_the_classifier():
    nets = [models.build("streetnet", {"width": w}, None, 4).eval() for w in (4, 8)]
    term, end = make_term(Distill(logits=0, features=1), nets[0], nets[1], 4)
    x, y = torch.randn(2, 3, 32, 32), torch.randint(0, 4, (2, 32, 32))
    value = term(x, nets[0](x), y)
    assert value > 0 and value.requires_grad
    end()


def setup(**changes):
    data = open_dataset("streets", None, "train", (32, 64), train=6)
    cfg = Train(**{"steps": 6, "batch": 2, "lr": 0.01, "checkpoint_every": 2, "ema": 0.9, **changes})
    torch.manual_seed(0)
    net = models.build("streetnet", {"width": 8, "blocks": 1}, None, 9)
    net.classifier = nn.Sequential(nn.Dropout(0.2), net.classifier)  # dropout must resume exactly too
    return net, train_loader(data, cfg, seed=1), cfg


class Killed(Exception):
    pass


def killed_at(step: int) -> Hooks:
    """Hooks of a training that ends in that step."""
    seen: list[None] = []

    def kill():
        seen.append(None)
        if len(seen) == step:
            raise Killed

    return Hooks(after_backward=kill)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_killed_training_ends_with_the_same_weights(tmp_path: Path, optimizer):
    net, batches, cfg = setup(optimizer=optimizer)
    train(net, batches, cfg, tmp_path / "whole", loss=LOSS, seed=1, title="t", hooks=Hooks())
    again, batches, cfg = setup(optimizer=optimizer)
    with pytest.raises(Killed):
        train(again, batches, cfg, tmp_path / "cut", loss=LOSS, seed=1, title="t", hooks=killed_at(5))
    fresh, batches, cfg = setup(optimizer=optimizer)
    train(fresh, batches, cfg, tmp_path / "cut", loss=LOSS, seed=1, title="t", hooks=Hooks())
    assert fingerprint(fresh) == fingerprint(net)
    steps = [note["step"] for note in json.loads((tmp_path / "cut" / "history.json").read_text())]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_a_checkpoint_of_another_schedule_or_a_cut_one_is_not_used(tmp_path: Path):
    net, batches, cfg = setup(steps=4)
    train(net, batches, cfg, tmp_path, loss=LOSS, seed=1, title="t", hooks=Hooks())
    other, batches, cfg = setup(steps=3)
    (tmp_path / "checkpoint.pt").write_bytes((tmp_path / "checkpoint.pt").read_bytes()[:100])
    train(other, batches, cfg, tmp_path, loss=LOSS, seed=1, title="t", hooks=Hooks())
    assert len(json.loads((tmp_path / "history.json").read_text())) == 3


def test_a_checkpoint_of_other_data_or_switches_is_not_used(tmp_path: Path):
    def cut(context: str, most: int) -> int:
        net, batches, cfg = setup()
        seen = 0

        def count():
            nonlocal seen
            seen += 1
            if seen == most:
                raise Killed

        hooks = Hooks(after_backward=count)
        with pytest.raises(Killed) if most < 6 else contextlib.nullcontext():
            train(net, batches, cfg, tmp_path, loss=LOSS, seed=1, title="t", hooks=hooks, context=context)
        return seen

    assert cut("one", 5) == 5  # leaves a checkpoint at step 4
    assert cut("other", 7) == 6
    assert cut("one", 5) == 5 and cut("one", 7) == 2


def test_training_learns_and_evaluates(tmp_path: Path):
    net, batches, cfg = setup(steps=30, val_every=6, lr=0.05, ema=None, autocast="bf16", accumulate=2, clip_grad=5.0)
    seen = []
    hooks = Hooks(evaluate=lambda n: seen.append(1) or 0.5)
    train(net, batches, cfg, tmp_path, loss=LOSS, seed=1, title="t", hooks=hooks)
    losses = [note["loss"] for note in hooks.history]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5]) and len(seen) == 3


def test_every_step_gives_way_to_measurements(tmp_path: Path, monkeypatch):
    asked = []
    for module in ("loop", "imitate"):
        monkeypatch.setattr(f"edgeprune.train.{module}.give_way", lambda m=module: asked.append(m))
    net, batches, cfg = setup(steps=3)
    train(net, batches, cfg, tmp_path, loss=LOSS, seed=1, title="t", hooks=Hooks())
    imitate(copy.deepcopy(net), net, batches.stream(), 2, cfg)
    assert asked == ["loop"] * 3 + ["imitate"] * 2


def test_what_hooks_gather_goes_on_from_the_checkpoint(tmp_path: Path):
    def run(home: str, most: int) -> list[float]:
        net, batches, cfg = setup()
        seen: list[float] = []

        def term(value, output, labels):
            seen.append(float(value.detach()))
            if len(seen) > most:
                raise Killed
            return 0.1 * output.square().mean()

        def load_state(state):
            seen[:] = state["seen"]

        hooks = Hooks(term=term, state=lambda: {"seen": list(seen)}, load_state=load_state)
        with pytest.raises(Killed) if most < 6 else contextlib.nullcontext():
            train(net, batches, cfg, tmp_path / home, loss=LOSS, seed=1, title="t", hooks=hooks)
        return seen

    whole = run("whole", 6)
    run("cut", 4)
    assert run("cut", 6) == whole and len(whole) == 6


def test_divergence_is_one_line(tmp_path: Path):
    net, batches, cfg = setup(lr=1e15)
    with pytest.raises(EdgepruneError, match="lower lr"):
        train(net, batches, cfg, tmp_path, loss=LOSS, seed=1, title="t", hooks=Hooks())


def test_recalibration_is_the_plain_mean_and_leaves_the_rest_alone():
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5)).train()
    net[0].momentum = 0.3
    batches = [(torch.randn(4, 3, 5, 5) + i, None) for i in range(3)]
    before = net[0].weight.clone()
    recalibrate(net, iter(batches), 3)
    torch.testing.assert_close(net[0].running_mean, torch.stack([b.mean((0, 2, 3)) for b, _ in batches]).mean(0))
    assert net[0].momentum == 0.3 and net.training and torch.equal(before, net[0].weight)


def test_only_what_has_as_many_channels_is_an_auxiliary_head():
    main, labels = torch.randn(2, 4, 8, 8), torch.randint(0, 4, (2, 8, 8))
    loss = make_loss(Loss(aux_weight=0.5), None)
    alone, features, edge = loss(main, labels), torch.randn(2, 64, 4, 4), torch.randn(2, 1, 8, 8)
    assert loss({"features": features, "out": main, "edge": edge}, labels) == alone
    assert loss((main, features, [edge]), labels) == alone
    assert loss({"out": main, "aux": main, "edge": edge}, labels) == pytest.approx(1.5 * float(alone))


def test_features_cannot_be_distilled_where_no_classifier_is_found():
    net = nn.Sequential(nn.Conv2d(3, 20, 1), nn.PixelShuffle(2))
    with pytest.raises(ModelError, match=r"finetune.distill.features: .*5 outputs"):
        make_term(Distill(logits=0, features=1), net, net, 5)


def test_averaged_weights_are_what_is_validated_and_rare_validations_are_not_none(tmp_path: Path):
    net, batches, cfg = setup(steps=3, val_every=1, ema=0.5, accumulate=20)
    seen = []
    train(
        net, batches, cfg, tmp_path, loss=LOSS, seed=1, title="t", hooks=Hooks(evaluate=lambda n: seen.append(n) or 0.5)
    )
    assert len(seen) == 2 and net not in seen


def test_averaged_weights_of_a_short_training_are_not_those_of_its_first_step(tmp_path: Path):
    net, batches, cfg = setup(steps=20, ema=0.999, checkpoint_every=50)
    first: list[torch.Tensor] = []
    own = lambda: next(net.parameters()).detach().clone()  # noqa: E731
    before = own()
    train(
        net,
        batches,
        cfg,
        tmp_path,
        loss=LOSS,
        seed=1,
        title="t",
        hooks=Hooks(after_backward=lambda: first.append(own())),
    )
    averaged, last = own(), first[-1]
    assert (averaged - last).norm() < 0.7 * (averaged - before).norm(), "0.999 ** 20 of the first step's would be left"


def test_what_changes_no_weight_does_not_keep_a_training_from_going_on(tmp_path: Path):
    net, batches, cfg = setup()
    with pytest.raises(Killed):
        train(net, batches, cfg, tmp_path, loss=LOSS, seed=1, title="t", hooks=killed_at(5))
    net, batches, cfg = setup(checkpoint_every=3, val_every=1)
    done = Hooks()
    train(net, batches, cfg, tmp_path, loss=LOSS, seed=1, title="t", hooks=done)
    assert [note["step"] for note in done.history] == [1, 2, 3, 4, 5, 6]


def test_a_schedule_shorter_than_its_warm_up_still_falls():
    cfg = Train(steps=500, warmup_steps=1000, lr=1.0)
    rates = [learning_rate(cfg, step, 500) for step in (0, 249, 250, 499)]
    assert rates[0] == 1 / 250 and rates[1] == rates[2] == 1 and rates[3] < 0.02


@pytest.mark.parametrize(("change", "nesterov"), [({}, True), ({"nesterov": False}, False), ({"momentum": 0.0}, False)])
def test_momentum_is_nesterovs_unless_the_recipe_says_plain(change, nesterov):
    from edgeprune.train.loop import _optimizer

    made = _optimizer(nn.Linear(2, 2), Train.model_validate({"steps": 1, **change}))
    assert made.defaults["nesterov"] is nesterov and [g["weight_decay"] for g in made.param_groups] == [5e-4, 0.0]
