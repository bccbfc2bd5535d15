"""What a network does otherwise than later stages need is told in one line before anything is trained."""

import random

import numpy as np
import pytest
import torch

from edgeprune.errors import ModelError, SurgeryError
from edgeprune.models.attributes import check_attributes
from edgeprune.stages import fits, load
from tests.stages import unusual

X, CLASSES = torch.zeros(1, 3, 32, 48), ["a", "b", "c", "d", "e"]


@pytest.fixture(autouse=True)
def without_a_graph(monkeypatch):
    monkeypatch.setattr(fits, "ship", lambda *args: None)


KINDS = [
    unusual.Plain,
    unusual.Merges,
    unusual.Stamped,
    unusual.Viewed,
    unusual.MasksAClass,
    unusual.IndexInAParameter,
    unusual.AnswersClassesToo,
]


def notes(net):
    return fits.check(net, X, "segmentation", CLASSES, ())


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (unusual.HidesChildren, r"attribute b\.children \(a dict\) hides nn\.Module\.children.*sets self\.children"),
        (unusual.HidesMode, r"attribute HidesMode\.training \(a dict\) hides"),
        (unusual.TrainGivesNothing, r"TrainGivesNothing\.train\(\) gives NoneType.*`return self`"),
        (unusual.BufferOfEvaluation, r"fine exists in evaluation mode only"),
        (unusual.MergesForGood, r"c\.weight is another tensor after eval\(\) and train\(\)"),
        (unusual.DrawsNoise, r"differently each time; the first that differs is what c \(Conv2d\) is given"),
        (unusual.ShiftsByPythonsRandom, "differently each time"),
        (unusual.WatchesThroughAClosure, r"does not run where the network itself does \(KeyError\('a'\)\)"),
        (unusual.HeadInAClosure, r"computes with c\.weight of the network that it was copied from"),
        (unusual.LearnsAnAttribute, "saved and read back, the network answers otherwise.*register_buffer"),
        (unusual.WritesInPlace, "one step of training fails: RuntimeError: one of the variables needed for gradient"),
        (unusual.WithoutGradient, "no weight gets a gradient"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_one_line_says_what_is_wrong(kind, line, training):
    net = kind()
    if kind not in (unusual.HidesChildren, unusual.HidesMode):
        net.train(training)
    with pytest.raises(ModelError, match=line) as refused:
        notes(net)
    assert "\n" not in str(refused.value)


def test_a_hook_that_has_seen_an_image_before_is_found_too():
    net = unusual.WatchesThroughAClosure()
    with torch.no_grad():
        net(torch.randn(1, 3, 32, 48))
    with pytest.raises(ModelError, match="a copy of the network answers otherwise"):
        notes(net)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_what_can_be_trained_and_pruned_passes_and_is_left_as_it_was(kind, training):
    net = kind()
    if kind is unusual.Merges:
        torch.nn.init.normal_(net.c.offset)
    net.train(training)
    before = {name: value.clone() for name, value in net.state_dict().items() if isinstance(value, torch.Tensor)}
    notes(net)
    assert all(m.training == training for m in net.modules())
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())


def test_modes_of_frozen_parts_are_left_as_they_were():
    net = unusual.Plain()
    net.a.eval()
    notes(net)
    assert net.training and not any(m.training for m in net.a.modules()) and net.b.training


def test_what_only_has_to_be_known_is_a_note():
    assert notes(unusual.Plain()) == []
    assert ["b.1 has no running statistics" in line for line in notes(unusual.NormOfTheBatch())] == [True]
    normed = unusual.NormOfTheBatch()
    normed.a.append(torch.nn.InstanceNorm2d(16, affine=True))
    assert ["b.1 has no running statistics" in line for line in notes(normed)] == [True]
    assert ["does not run in NHWC" in line and "trained in NCHW" in line for line in notes(unusual.Viewed())] == [True]


def test_nchw_that_was_asked_for_is_no_note():
    wanted = fits.Wanted(channels_last=False)
    assert fits.check(unusual.Viewed(), X, "segmentation", CLASSES, (), wanted) == []


def test_a_layer_that_cannot_follow_a_cut_when_it_unmerges_is_named():
    net = unusual.Plain()
    net.b.append(unusual.Rotated(12, 12))
    net.b[3].weight.requires_grad_(True)
    with pytest.raises(SurgeryError, match=r"does not run in training mode.*try prune\.never: \[.*b\.3"):
        notes(net)


def test_a_factory_that_builds_otherwise_each_time_is_refused():
    made = iter([12, 20])

    def build():
        net = unusual.Plain()
        net.c = torch.nn.Conv2d(12, 5, next(made) // 12 * 2 + 1, padding="same")
        return net

    wanted = fits.Wanted(build=build)
    with pytest.raises(ModelError, match="the weights do not fit a network built anew"):
        fits.check(unusual.Plain(), X, "segmentation", CLASSES, (), wanted)


def test_a_loss_that_does_not_take_the_answer_is_told():
    def loss(output, images):
        raise ValueError("labels of 4 dimensions are wanted")

    with pytest.raises(ModelError, match="one step of training fails: ValueError: labels of 4 dimensions"):
        fits.check(unusual.Plain(), X, "segmentation", CLASSES, (), fits.Wanted(loss=loss))


def test_no_generator_is_moved():
    net = unusual.ShiftsByPythonsRandom()
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    with pytest.raises(ModelError):
        notes(net)
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_a_callable_in_the_place_of_a_method_is_the_networks_own_matter():
    net = unusual.Plain()
    net.zero_grad = lambda set_to_none=True: None
    check_attributes(net)


def test_made_up_labels_are_of_classes_that_can_be_answered():
    with torch.no_grad():
        assert load._unmasked(unusual.MasksAClass()(X), 5).tolist() == [0, 1, 2, 4]
    assert load._unmasked(torch.full((2, 5), torch.nan), 5).tolist() == [0, 1, 2, 3, 4]
