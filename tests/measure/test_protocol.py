"""Evaluation protocols: windows, own sizes, flips and scales, on networks whose answer is known."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgeprune import models
from edgeprune.data.transforms import IMAGENET
from edgeprune.measure.miou import evaluate
from edgeprune.measure.protocol import predictor, seen_size, slide
from edgeprune.recipe import Evaluate
from edgeprune.tasks.segmentation import Segmentation

RNG = np.random.default_rng(0)


class Pixels(nn.Module):
    """Class 1 where a pixel is bright: looks at one pixel only, so that windows and flips cannot change its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(1))
        self.seen: list[tuple[int, ...]] = []

    def forward(self, x):
        self.seen.append(tuple(x.shape[-2:]))
        return {"out": torch.stack([-x[:, 0], x[:, 0]], 1) * self.one}


class Corner(Pixels):
    """Class 1 in the left half of whatever it sees: knows left from right and where the window's edge is."""

    def forward(self, x):
        super().forward(x)
        left = (torch.arange(x.shape[-1]) < x.shape[-1] / 2).float().expand(x.shape[0], *x.shape[-2:])
        return torch.stack([1 - left, 3 * left], 1)


def blocks(h: int, w: int, cell: int = 8) -> np.ndarray:
    """(1, H, W, 3) of black and white blocks."""
    grid = RNG.integers(0, 2, (-(-h // cell), -(-w // cell)))
    picture = np.kron(grid, np.ones((cell, cell)))[:h, :w] * 255
    return np.repeat(picture[None, ..., None], 3, 3).astype(np.uint8)


def test_the_plain_protocol_is_todays():
    net = models.build("streetnet", {}, None, 5)
    images = RNG.integers(0, 255, (2, 64, 96, 3)).astype(np.uint8)
    np.testing.assert_array_equal(
        predictor(net, Evaluate(), (64, 96))(images), Segmentation([], (64, 96), None).predictor(net)(images)
    )


@pytest.mark.parametrize(
    "cfg",
    [
        Evaluate(mode="slide", crop=(32, 32)),
        Evaluate(mode="slide", crop=(32, 48), stride=(7, 11), flip=True),
        Evaluate(mode="slide", crop=(64, 160), native=True),
        Evaluate(mode="slide", crop=(24, 24), stride=(24, 24), native=True, average="logits", flip=True),
    ],
)
def test_windows_and_flips_do_not_move_pixels(cfg):
    image = blocks(50, 100)
    found = predictor(Pixels(), cfg, (50, 100))(image)
    np.testing.assert_array_equal(found[0], image[0, ..., 0] > 127)


def test_windows_cover_everything_and_end_at_the_edges():
    seen = []

    def forward(x):
        seen.append(tuple(int(v) for v in x[0, :, 0, 0]))
        return x[:, :1]

    where = torch.stack(torch.meshgrid(torch.arange(70.0), torch.arange(130.0), indexing="ij"))[None]
    out = slide(forward, where, (48, 60), None)
    assert seen == [(y, x) for y in (0, 22) for x in (0, 40, 70)]  # two thirds of 48 and 60, the last at the edge
    torch.testing.assert_close(out, where[:, :1])


def test_overlapping_windows_are_averaged():
    """Columns 0 to 3 of each window say 1, 4 to 7 say 0; windows at 0 and 4: the overlap is the mean of both."""
    x = torch.zeros(1, 1, 8, 12)
    ramp = torch.tensor([1.0] * 4 + [0.0] * 4).expand(1, 1, 8, 8)
    out = slide(lambda window: ramp.clone(), x, (8, 8), (8, 4))
    torch.testing.assert_close(out[0, 0, 0], torch.tensor([1.0] * 4 + [0.5] * 4 + [0.0] * 4))


def test_an_image_smaller_than_the_window_is_padded_and_cut():
    net = Pixels()
    image = blocks(20, 30)
    found = predictor(net, Evaluate(mode="slide", native=True), (64, 64))(image)
    assert net.seen == [(64, 64)] and found.shape == (1, 20, 30)
    np.testing.assert_array_equal(found[0], image[0, ..., 0] > 127)


def test_logits_are_resized_to_the_label_before_argmax():
    net = Pixels()
    image = blocks(60, 90, 30)
    found = predictor(net, Evaluate(native=True), (32, 64))(image)
    assert net.seen == [(32, 64)] and found.shape == (1, 60, 90)
    assert (found[0] == (image[0, ..., 0] > 127)).mean() > 0.9  # but for the blocks' edges
    x = torch.from_numpy(image).permute(0, 3, 1, 2).float() / 255
    small = (
        F.interpolate(x, size=(32, 64), mode="bilinear", antialias=True)[:, :1] / IMAGENET.std[0]
        - 0.485 / IMAGENET.std[0]
    )
    wanted = F.interpolate(small, size=(60, 90), mode="bilinear")[0, 0] > 0
    assert (found[0] == wanted.numpy()).mean() > 0.999


def test_flips_are_turned_back_before_they_are_averaged():
    image = blocks(32, 64)
    left = predictor(Corner(), Evaluate(), (32, 64))(image)
    assert left[0, :, :32].all() and not left[0, :, 32:].any()
    # mirrored and turned back, the answer is "right"; logits (0, 3) + (1, 0) say 1 everywhere
    assert predictor(Corner(), Evaluate(flip=True, average="logits"), (32, 64))(image).all()


def test_probabilities_and_logits_may_differ():
    """Three scales say (9, 0), (0, 3), (0, 3): by logits 9 stands against 6, by probabilities 1 against almost 2."""

    class Three(Pixels):
        def forward(self, x):
            super().forward(x)
            logits = [(9.0, 0.0), (0.0, 3.0), (0.0, 3.0)][len(self.seen) - 1]
            return torch.tensor(logits).view(1, 2, 1, 1).expand(1, 2, *x.shape[-2:]).clone()

    image, cfg = blocks(32, 32), Evaluate(scales=[1.0, 1.5, 2.0])
    assert predictor(Three(), cfg, (32, 32))(image).all()
    assert not predictor(Three(), cfg.model_copy(update={"average": "logits"}), (32, 32))(image).any()


@pytest.mark.parametrize(
    ("cfg", "image", "scale", "wanted"),
    [
        (Evaluate(), (100, 200), 1.0, (100, 200)),
        (Evaluate(), (100, 200), 0.5, (64, 96)),
        (Evaluate(native=True), (375, 500), 1.0, (100, 200)),
        (Evaluate(native=True, short_side=512), (375, 500), 1.0, (512, 672)),
        (Evaluate(native=True, short_side=512), (500, 375), 0.5, (352, 256)),
        (Evaluate(mode="slide", native=True), (375, 500), 1.0, (375, 500)),
        (Evaluate(mode="slide", native=True, short_side=512), (375, 500), 1.0, (512, 683)),
        (Evaluate(mode="slide"), (100, 200), 1.75, (175, 350)),
    ],
)
def test_what_the_network_sees(cfg, image, scale, wanted):
    assert seen_size(image, scale, cfg, (100, 200)) == wanted


def test_images_of_different_sizes_are_judged_at_their_own():
    class Mixed:
        classes = ["dark", "bright"]
        pairs = [blocks(40, 60, 20)[0], blocks(33, 25, 11)[0]]

        def __len__(self):
            return 2

        def __getitem__(self, i):
            return self.pairs[i], (self.pairs[i][..., 0] > 127).astype(np.uint8)

    cfg = Evaluate(mode="slide", native=True, crop=(32, 32))
    found = evaluate(predictor(Pixels(), cfg, (32, 32)), Mixed(), batch=1, keep=False)
    assert found.miou == 1 and found.matrices.sum() == 40 * 60 + 33 * 25 and found.masks.size == 0
