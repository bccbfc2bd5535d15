"""Class-balanced resampling: the shares that it promises, crops around the class, and streams that can be taken up anywhere."""

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch

from edgeprune.data.balance import Balanced, balanced, focus
from edgeprune.data.dataset import IGNORE
from edgeprune.data.loader import train_loader
from edgeprune.data.transforms import augmented
from edgeprune.errors import DataError
from edgeprune.recipe import Augment, Train

PLAIN = Augment(scale=(1, 1), flip=0, color=0)


class Labels:
    """Images that are their labels: class ids times 20 as grey."""

    classes = ["common", "less", "rare", "never"]
    palette = [(i, i, i) for i in range(4)]

    def __init__(self, labels: list[np.ndarray]) -> None:
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return np.repeat((self.labels[index] % 32 * 20)[..., None], 3, 2).astype(np.uint8), self.labels[index]

    def label(self, index):
        return self.labels[index]

    def name(self, index):
        return str(index)


def long_tail() -> Labels:
    """Six images: all hold class 0, two of them class 1, one of them class 2; nobody holds class 3."""
    labels = [np.zeros((40, 60), np.uint8) for _ in range(6)]
    labels[1][:4, :4] = 1
    labels[2][-5:, -5:] = 1
    labels[2][20:24, 50:54] = 2
    labels[4][:10] = IGNORE
    return Labels(labels)


def test_shares_are_as_computed():
    """In 18 samples (3 classes, 6 holders of the commonest) every image comes exactly as often as 1/K sum 1/n_c says."""
    found = balanced(long_tail(), seed=5)
    assert found.classes == [0, 1, 2]
    for start in (0, 180, 1800):
        seen = Counter(found.draw(n)[0] for n in range(start, start + 18))
        third = Fraction(1, 3)
        wanted = [third / 6, third / 6 + third / 2, third / 6 + third / 2 + third, third / 6, third / 6, third / 6]
        assert [Fraction(seen[i], 18) for i in range(6)] == wanted
        np.testing.assert_allclose(found.shares(6), [float(w) for w in wanted])
    assert found.shares(6).sum() == pytest.approx(1)


def test_every_class_comes_as_often_and_its_image_holds_it():
    data, found = long_tail(), balanced(long_tail(), seed=1)
    drawn = [found.draw(n) for n in range(30)]
    assert Counter(c for _, c in drawn) == {0: 10, 1: 10, 2: 10}
    assert all((data.labels[i] == c).any() for i, c in drawn)
    assert drawn != [balanced(data, seed=2).draw(n) for n in range(30)]


def test_the_stream_can_be_taken_up_anywhere():
    cfg = Train(steps=1, batch=2, resample="class_balanced", augment=Augment(crop=(16, 24)))
    first = train_loader(long_tail(), cfg, seed=3).stream()
    seen = [next(first) for _ in range(5)]
    again = next(train_loader(long_tail(), cfg, seed=3).stream(start=4))
    torch.testing.assert_close(seen[4], again, rtol=0, atol=0)
    single = train_loader(long_tail(), cfg.model_copy(update={"batch": 1}), seed=3)
    parts = [next(single.stream(2, rank, 2)) for rank in (0, 1)]
    torch.testing.assert_close(torch.cat([p[0] for p in parts]), seen[2][0], rtol=0, atol=0)
    helped = next(train_loader(long_tail(), cfg, seed=3, workers=1).stream())
    torch.testing.assert_close(helped, seen[0], rtol=0, atol=0)


def test_the_crop_holds_the_class_drawn():
    cfg = Train(steps=1, batch=1, resample="class_balanced", augment=Augment(crop=(16, 24), scale=(0.8, 2.0)))
    loader = train_loader(long_tail(), cfg, seed=0)
    stream = loader.stream()
    assert loader.balance is not None
    for n in range(45):
        _, wanted = loader.balance.draw(n)
        _, label, drawn = next(stream)
        assert drawn.tolist() == [wanted] and (label == wanted).any(), n


def test_rare_classes_fill_more_of_the_batches():
    share = {}
    for kind in ("none", "class_balanced"):
        stream = train_loader(
            long_tail(), Train(steps=1, batch=6, resample=kind, augment=PLAIN.model_copy(update={"crop": (16, 24)})), 0
        ).stream()
        labels = torch.cat([next(stream)[1] for _ in range(6)])
        share[kind] = float((labels == 2).float().mean())
    assert share["class_balanced"] > 3 * share["none"]


def test_regions_not_pixels_are_as_likely():
    label = np.zeros((30, 30), np.uint8)
    label[2:20, 2:20] = 1
    label[25, 25] = 1
    generator = torch.Generator().manual_seed(0)
    hits = [focus(label, 1, generator) for _ in range(200)]
    assert 60 < sum(h == (25, 25) for h in hits) < 140
    assert all(label[h] == 1 for h in hits if h) and focus(label, 7, generator) is None


def test_the_point_lands_in_the_middle_half():
    label = np.zeros((100, 100), np.uint8)
    label[50, 60] = 1
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        _, y = augmented(np.zeros((100, 100, 3), np.uint8), label, PLAIN, (20, 40), generator, at=(50, 60))
        place = (y == 1).nonzero()
        assert len(place) == 1 and 4 <= place[0, 0] <= 16 and 9 <= place[0, 1] <= 31


def test_another_loader_of_the_data_does_not_read_it_again(monkeypatch):
    cfg = Train(steps=1, batch=2, resample="class_balanced")
    first, afresh = (train_loader(long_tail(), cfg, seed) for seed in (0, 7))
    monkeypatch.setattr("edgeprune.data.loader.balanced", None)
    second = train_loader(first.data, cfg, 7, balance=first.balance)
    assert second.balance is not None and afresh.balance is not None
    assert [second.balance.draw(n) for n in range(30)] == [afresh.balance.draw(n) for n in range(30)]
    assert train_loader(first.data, Train(steps=1), 7, balance=first.balance).balance is None


def test_nothing_to_balance():
    with pytest.raises(DataError, match="resample: no training label holds any class"):
        balanced(Labels([np.full((4, 4), IGNORE, np.uint8)]), 0)


def test_without_it_nothing_changes():
    assert train_loader(long_tail(), Train(steps=1), 0).balance is None
    assert Balanced([np.array([3])], [0], 0).draw(12345) == (3, 0)
