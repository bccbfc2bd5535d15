"""What a network must be like is asked before it is trained for hours."""

import pytest
import torch
from torch import nn

from edgeprune.errors import ModelError
from edgeprune.stages import fits
from tests.prune import nets

X, CLASSES = torch.zeros(1, 3, 32, 32), ["a", "b", "c", "d", "e"]


def asked(net, task="segmentation", classes=CLASSES, never=()):
    fits.check(net, X, task, classes, never)


def test_a_network_that_fits_is_left_as_it_was():
    net = nets.Residual().train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    asked(net)
    assert net.training and all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


class Answers(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.a, self.shape = nn.Conv2d(3, 8, 3), shape

    def forward(self, x):
        return self.a(x).mean() + torch.zeros(self.shape)


@pytest.mark.parametrize("classes", [4, 6, 1])
def test_another_number_of_channels_than_classes_names_both(classes):
    with pytest.raises(
        ModelError,
        match=rf"\(1, 5, 64, 64\) to \(1, 3, 32, 32\); segmentation of this data wants \(B, {classes} classes",
    ):
        asked(nets.Residual(), classes=CLASSES[:classes] + ["f"] * (classes - 5))


@pytest.mark.parametrize(
    ("task", "shape"),
    [
        ("segmentation", (1, 1024, 5)),
        ("segmentation", (1, 32, 32)),
        ("classification", (1, 5, 1, 1)),
        ("detection", (1, 7, 8)),
    ],
)
def test_an_answer_of_another_form_is_refused(task, shape):
    with pytest.raises(ModelError, match="of this data wants"):
        asked(Answers(shape), task)


def test_a_network_that_cannot_be_copied_is_refused_with_the_way_out():
    net = nets.Residual()
    nn.utils.weight_norm(net.b[0])
    net(X)
    with pytest.raises(ModelError, match=r"cannot be copied \(RuntimeError.*remove_weight_norm"):
        asked(net)


def test_a_network_that_does_not_run_says_why():
    class Sized(nn.Conv2d):
        def forward(self, x):
            assert x.shape[-1] == 224, f"bad size {x.shape[-1]}"

    with pytest.raises(ModelError, match=r"does not run on \(1, 3, 32, 32\): AssertionError: bad size 32"):
        asked(Sized(3, 5, 1))


def test_where_nothing_can_go_the_reasons_are_told():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(4, 8), nn.ReLU(), nn.Conv2d(8, 5, 1))
    with pytest.raises(ModelError, match="no channel of the network can be pruned; kept whole: 0 .*group norm"):
        asked(net)
    with pytest.raises(ModelError, match=r"prune.never names \*"):
        asked(nets.Residual(), never=["*"])
