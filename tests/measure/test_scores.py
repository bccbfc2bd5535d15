import runpy

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from edgeprune.measure.bootstrap import mean_difference, miou_difference, time_median, time_ratio, worst_class
from edgeprune.measure.boundary import BoundaryCounts, boundary
from edgeprune.measure.miou import confusion, evaluate, iou, miou
from edgeprune.shipped import shipped

RNG = np.random.default_rng(0)


def pair(classes=5, shape=(40, 60), wrong=0.3):
    truth = RNG.integers(0, classes, shape).astype(np.uint8)
    found = np.where(RNG.random(shape) < wrong, RNG.integers(0, classes, shape), truth).astype(np.uint8)
    truth[:5] = 255
    return truth, found


def test_iou_equals_torchmetrics():
    truth, found = pair()
    theirs = MulticlassJaccardIndex(5, ignore_index=255, average="none")(
        torch.from_numpy(found).long(), torch.from_numpy(truth).long()
    )
    np.testing.assert_allclose(iou(confusion(truth, found, 5)), theirs.numpy(), atol=1e-6)


def test_absent_classes_do_not_count():
    truth, found = np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)
    matrix = confusion(truth, found, 3)
    assert np.isnan(iou(matrix)[1:]).all() and miou(matrix) == 1


def test_a_stray_pixel_of_a_class_that_is_nowhere_costs_a_pixel():
    truth = np.repeat(np.arange(10, dtype=np.uint8), 100).reshape(10, 100)
    found = truth.copy()
    found[0, 0] = 10
    matrix = confusion(truth, found, 11)
    assert np.isnan(iou(matrix)[10]) and iou(matrix)[0] == 0.99 and abs(miou(matrix) - 0.999) < 1e-12
    clean, stray = np.stack([confusion(truth, truth, 11)] * 6), np.stack([confusion(truth, truth, 11)] * 5 + [matrix])
    difference, low, high = miou_difference(clean, stray)
    assert -0.002 < low <= difference <= high <= 0 and worst_class(clean, stray) == (0, pytest.approx(difference * 10))
    counts = BoundaryCounts(11)
    counts.add(truth, found)
    assert np.isnan(counts.iou()[10])


def test_the_device_counts_as_the_host_does():
    matrix = confusion(*pair(7), 9)
    code = runpy.run_path(str(shipped("deploy/on_device") / "score.py"))
    np.testing.assert_array_equal(code["iou"](matrix), iou(matrix))


def test_too_few_images_give_no_interval():
    matrices = np.stack([confusion(*pair(4), 4) for _ in range(4)])
    assert miou_difference(matrices, matrices) == (0, -1, 1)
    assert mean_difference(np.ones(4), np.zeros(4)) == (-1, -1, 1)
    assert mean_difference(np.ones(5), np.zeros(5)) == (-1, -1, -1)


def brute_boundary(mask, d):
    padded = np.pad(mask, d)
    eroded = np.ones_like(mask)
    for dy in range(2 * d + 1):
        for dx in range(2 * d + 1):
            eroded &= padded[dy : dy + mask.shape[0], dx : dx + mask.shape[1]]
    return mask & ~eroded


def test_one_filter_equals_the_erosion_of_each_class():
    label = np.kron(RNG.integers(0, 4, (6, 8)), np.ones((7, 7), int)).astype(np.uint8)
    for d in (1, 2, 3):
        edges = boundary(label, d)
        for c in range(4):
            np.testing.assert_array_equal(edges & (label == c), brute_boundary(label == c, d))


def test_boundary_iou_sees_a_shift_that_iou_hardly_sees():
    truth = np.zeros((100, 100), np.uint8)
    truth[20:80, 20:80] = 1
    shifted = np.roll(truth, 2, axis=1)
    counts = BoundaryCounts(2)
    counts.add(truth, shifted)
    assert counts.iou()[1] < 0.7 < iou(confusion(truth, shifted, 2))[1]
    same = BoundaryCounts(2)
    same.add(truth, truth)
    assert same.mean() == 1


def test_ignored_pixels_make_no_boundary():
    truth, found = np.zeros((50, 50), np.uint8), np.zeros((50, 50), np.uint8)
    truth[10:20, 10:20] = 255
    found[10:20, 10:20] = 1
    counts = BoundaryCounts(2)
    counts.add(truth, found)
    assert counts.iou()[0] == 1 and np.isnan(counts.iou()[1])


class Set:
    classes = ["a", "b", "c"]

    def __init__(self, n=6):
        self.pairs = [(RNG.integers(0, 255, (20, 30, 3)).astype(np.uint8), pair(3, (20, 30))[0]) for _ in range(n)]

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, i):
        return self.pairs[i]


def test_evaluation_sums_over_images_not_means():
    data = Set()
    result = evaluate(lambda x: (x[..., 0] % 3).astype(np.uint8), data, batch=4)
    whole = sum(confusion(label, image[..., 0] % 3, 3) for image, label in data.pairs)
    assert result.miou == miou(whole) and result.matrices.shape == (6, 3, 3) and result.masks.shape == (6, 20, 30)


def test_bootstrap_of_equal_masks_is_zero_and_of_worse_ones_is_below():
    good = np.stack([confusion(*pair(4, wrong=0.1), 4) for _ in range(30)])
    bad = np.stack([confusion(*pair(4, wrong=0.5), 4) for _ in range(30)])
    assert miou_difference(good, good) == (0, 0, 0)
    difference, low, high = miou_difference(good, bad)
    assert low < difference < high < 0
    assert worst_class(good, good)[1] == 0


def test_ratio_of_pairs_survives_a_drift_that_both_share():
    drift = np.linspace(1, 5, 200)
    noise = RNG.normal(1, 0.02, (2, 200))
    median, low, high = time_ratio(2 * drift * noise[0], drift * noise[1])
    assert low < 2 < high and high - low < 0.05 and abs(median - 2) < 0.02


def test_the_interval_of_a_median_knows_that_slow_calls_come_in_rows():
    rng, held = np.random.default_rng(0), 0
    for _ in range(60):
        slow = np.repeat(rng.normal(0, 0.05, 12), 10)  # every ten calls run at one pace
        low, high = time_median(1 + slow + rng.normal(0, 0.002, 120))[1:]
        held += low <= 1 <= high
    assert held > 45, "resampled one by one it would hold in a third of them"
    assert time_median(np.array([2.0]))[:1] == (2.0,)


def test_the_interval_of_a_ratio_knows_that_neighbours_slow_two_engines_unlike_for_seconds():
    rng, held = np.random.default_rng(1), 0
    for _ in range(60):
        ratio = np.repeat(rng.normal(2, 0.05, 15), 40) + rng.normal(0, 0.002, 600)
        low, high = time_ratio(ratio, np.ones(600), resamples=500)[1:]
        held += low <= 2 <= high
    assert held > 45, "resampled one by one it would hold in a third of them"
