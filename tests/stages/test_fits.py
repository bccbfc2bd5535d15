"""What a network must be like is asked before it is trained for hours."""

import pytest
import torch
from torch import nn

from edgeprune.errors import ModelError, SurgeryError
from edgeprune.stages import fits
from tests.prune import nets

X, CLASSES = torch.zeros(1, 3, 32, 32), ["a", "b", "c", "d", "e"]


@pytest.fixture(autouse=True)
def without_a_graph(monkeypatch):
    """What is exported and compiled has tests of its own (`test_first_graph`)."""
    monkeypatch.setattr(fits, "ship", lambda *args: None)


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


def test_a_network_for_one_image_alone_is_refused():
    class Single(nn.Conv2d):
        def forward(self, x):
            return super().forward(x).view(1, 5, *x.shape[2:])

    with pytest.raises(ModelError, match=r"does not run in training mode on \(2, 3, 32, 32\): RuntimeError"):
        asked(Single(3, 5, 1))


def test_where_nothing_can_go_the_reasons_are_told():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(4, 8), nn.ReLU(), nn.Conv2d(8, 5, 1))
    with pytest.raises(ModelError, match="no channel of the network can be pruned; kept whole: 0 .*group norm"):
        asked(net)
    with pytest.raises(ModelError, match=r"prune.never names \*"):
        asked(nets.Residual(), never=["*"])


def test_a_width_that_is_written_in_the_code_is_found_before_any_training_with_the_layer_to_spare():
    class Hard(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nets.block(3, 16), nets.block(16, 16), nn.Conv2d(16, 5, 1)

        def forward(self, x):
            x = self.a(x)
            return self.head(self.b(x.view(len(x), 4, 4, -1).view(len(x), 16, *x.shape[2:])))

    net = Hard()
    with pytest.raises(
        SurgeryError, match=r"written in its forward; cutting a\.0 makes it so: try prune.never: \[a\.0\]"
    ):
        asked(net)
    asked(net, never=["a.0"])


def test_the_rehearsal_is_on_smaller_images_where_the_network_takes_them(monkeypatch):
    rehearsed = []
    monkeypatch.setattr(fits.rehearsal, "STEPS", ())
    monkeypatch.setattr(fits, "rehearse", lambda net, graph, example: rehearsed.append(tuple(example.shape[2:])))

    class Sized(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Conv2d(3, 2, 1, 8), nn.ReLU(), nn.Conv2d(2, 5, 1))

        def forward(self, x):
            assert x.shape[-1] >= self.least
            return super().forward(x)

    for least, (height, width) in ((0, (512, 2048)), (1000, (512, 2048)), (0, (720, 1280)), (0, (512, 512))):
        net = Sized()
        net.least = least
        fits.check(net, torch.zeros(1, 3, height, width), "segmentation", CLASSES, ())
    assert rehearsed == [(64, 256), (256, 1024), (192, 256), (256, 256)]


def test_nothing_runs_the_network_at_full_size_and_a_fault_there_is_still_found(monkeypatch):
    monkeypatch.setattr(fits.rehearsal, "STEPS", ())
    ran = []

    class Sized(nn.Sequential):
        most = 9999

        def forward(self, x):
            if not torch.compiler.is_exporting():
                ran.append(x.shape[-1])
            assert x.shape[-1] <= self.most, "too wide"
            return super().forward(x)

    net = Sized(nn.Conv2d(3, 2, 1, 8), nn.ReLU(), nn.Conv2d(2, 5, 1))
    fits.check(net, torch.zeros(1, 3, 512, 1024), "segmentation", CLASSES, ())
    assert set(ran) == {256}
    net.most = 512
    with pytest.raises(ModelError, match=r"does not run on \(1, 3, 512, 1024\): AssertionError: too wide"):
        fits.check(net, torch.zeros(1, 3, 512, 1024), "segmentation", CLASSES, ())


def test_rehearsing_draws_no_random_numbers_of_the_training():
    net = nets.Residual()
    before = torch.get_rng_state()
    asked(net)
    assert torch.equal(torch.get_rng_state(), before)
