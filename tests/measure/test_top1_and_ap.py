"""Top-1 and average precision by hand-computed cases, and against a slow plain implementation."""

from dataclasses import replace

import numpy as np
import pytest

from edgeprune.measure import ap, top1

CLASSES = ["a", "b"]


def label(*rows):
    return np.array(rows, np.float32).reshape(-1, 6)


BOX, FAR = [0, 0, 10, 10], [50, 50, 60, 60]


def test_top1_a_class_and_its_interval():
    class Data:
        classes = ["x", "y", "z"]

        def __len__(self):
            return 4

        def __getitem__(self, n):
            return np.full((2, 2, 3), n, np.uint8), np.asarray([0, 0, 1, 1][n])

    def predict(images):  # right, wrong, right, right
        return np.eye(3)[[[0, 2, 1, 1][int(i[0, 0, 0])] for i in images]]

    found = top1.evaluate(predict, Data(), batch=3)
    assert found.top1 == 0.75 == found.balanced and found.per_class == {"x": 0.5, "y": 1.0, "z": None}
    better = top1.evaluate(lambda images: np.eye(3)[[[0, 0, 1, 1][int(i[0, 0, 0])] for i in images]], Data())
    assert top1.difference(found, better) == (0.25, -1, 1)  # of four images no interval
    more = [replace(f, right=np.tile(f.right, 2)) for f in (found, better)]
    change, low, high = top1.difference(*more)
    assert change == 0.25 and 0 <= low < 0.25 < high <= 1
    assert top1.agreement(found, better).tolist() == [1, 0, 1, 1]
    with pytest.raises(ValueError, match="logits"):
        top1.evaluate(lambda images: np.zeros((len(images), 2)), Data())


def test_average_precision_by_hand():
    """Three of class a, found as: hit 0.9, miss 0.8, hit 0.7: area 1/3 * 1 + 1/3 * 2/3."""
    truth = [label([*BOX, 0, 0], [*FAR, 0, 0]), label([*BOX, 0, 0])]
    found = [label([*BOX, 0, 0.9], [20, 20, 30, 30, 0, 0.8]), label([*BOX, 0, 0.7])]
    judged = ap.judge(found, truth, CLASSES)
    assert judged.ap50 == {"a": pytest.approx(1 / 3 + 2 / 9), "b": None}
    assert judged.map50 == pytest.approx(5 / 9) == pytest.approx(judged.map)


def test_a_box_is_hit_once_and_difficult_ones_count_neither_way():
    truth = [label([*BOX, 0, 0], [*FAR, 0, 1])]
    twice = [label([*BOX, 0, 0.9], [*FAR, 0, 0.8], [0, 0, 10, 9, 0, 0.7])]
    assert ap.judge(twice, truth, CLASSES).hits[0].hit[0].tolist() == [1, -1, 0]
    assert ap.judge(twice, truth, CLASSES).map50 == 1  # the second hit comes after full recall
    only = [label([*FAR, 0, 0.8])]
    assert ap.judge(only, truth, CLASSES).map50 == 0
    assert ap.judge(only, [label([*FAR, 0, 1])], CLASSES).ap50 == {"a": None, "b": None}


def test_overlap_decides_between_the_thresholds():
    truth, found = [label([*BOX, 1, 0])], [label([0, 0, 10, 7.2, 1, 0.9])]  # overlap 0.72: right at 0.5 to 0.7
    judged = ap.judge(found, truth, CLASSES)
    assert judged.map50 == 1 and judged.map == pytest.approx(0.5)


def slow_ap(found, truth, k):
    """VOC's devkit, over all recall points, box by box."""
    rows = sorted(((f[5], n, f) for n, boxes in enumerate(found) for f in boxes if f[4] == k), key=lambda r: -r[0])
    wanted = {n: [[t, False] for t in boxes if t[4] == k] for n, boxes in enumerate(truth)}
    total, flags = sum(len(w) for w in wanted.values()), []
    for _, n, f in rows:
        best, most = None, 0.0
        for entry in wanted[n]:
            t = entry[0]
            w, h = (max(0, min(f[i + 2], t[i + 2]) - max(f[i], t[i])) for i in (0, 1))
            both = w * h
            over = both / ((f[2] - f[0]) * (f[3] - f[1]) + (t[2] - t[0]) * (t[3] - t[1]) - both)
            if over > most and not entry[1]:
                best, most = entry, over
        flags.append(most >= 0.5)
        if flags[-1]:
            best[1] = True
    hits = np.cumsum(flags)
    precision = [h / (i + 1) for i, h in enumerate(hits)]
    return sum(max(precision[i:]) / total for i in range(len(flags)) if flags[i])


def scenes(seed, count=12):
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for _ in range(count):
        corner = rng.uniform(0, 40, (5, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(5, 20, (5, 2))], 1)
        kinds = rng.integers(0, 2, (5, 1))
        truth.append(np.concatenate([boxes, kinds, np.zeros((5, 1))], 1).astype(np.float32))
        moved = np.repeat(boxes, 2, 0) + rng.normal(0, 1.5, (10, 4))
        kinds = np.where(rng.random((10, 1)) < 0.8, np.repeat(kinds, 2, 0), rng.integers(0, 2, (10, 1)))
        found.append(np.concatenate([moved, kinds, rng.random((10, 1))], 1).astype(np.float32))
    return found, truth


def test_average_precision_is_the_devkits():
    for seed in range(3):
        found, truth = scenes(seed)
        judged = ap.judge(found, truth, CLASSES)
        assert list(judged.ap50.values()) == pytest.approx([slow_ap(found, truth, k) for k in (0, 1)])


def test_the_interval_of_a_difference_holds_it_and_vanishes_for_the_same():
    found, truth = scenes(0)
    a = ap.judge(found, truth, CLASSES)
    b = ap.judge([f[: len(f) // 2] for f in found], truth, CLASSES)
    change, low, high = ap.difference(a, b)
    assert change == pytest.approx(b.map50 - a.map50) and low < change < high
    assert ap.difference(a, a) == (0, 0, 0)


def test_agreement_of_boxes():
    a = label([*BOX, 0, 0.9], [*FAR, 1, 0.31], [20, 20, 30, 30, 0, 0.1])
    near = label([*BOX, 0, 0.5], [*FAR, 1, 0.29])  # just under the score on the other side
    assert ap.common(a, a) == 1 == ap.common(a, near) == ap.common(a[:0], near[:0])
    assert ap.common(a, label([*BOX, 1, 0.9], [*FAR, 1, 0.3])) == 0.5


def test_what_lies_in_a_crowd_is_neither_hit_nor_miss():
    """As COCO's tool: the share of the detection inside the crowd decides, and one crowd takes any number."""
    truth = [label([*BOX, 0, 0], [100, 100, 300, 300, 0, 2])]
    inside = [[100 + 20 * n, 120, 110 + 20 * n, 140, 0, 0.9 - 0.01 * n] for n in range(5)]
    judged = ap.judge([label(*inside, [*BOX, 0, 0.1])], truth, CLASSES)
    assert judged.map50 == 1 and judged.hits[0].hit[0].tolist() == [-1] * 5 + [1]
    outside = [label([80, 120, 120, 140, 0, 0.9], [*BOX, 0, 0.1])]  # half of it: at 0.5 not judged, at 0.55 a miss
    hits = ap.judge(outside, truth, CLASSES).hits[0].hit
    assert (hits[0, 0], hits[1, 0]) == (-1, 0)
