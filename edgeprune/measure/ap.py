"""Average precision of detection as PASCAL VOC defines it since 2010, at one overlap and as COCO averages it over ten.

AP is the area under the precision that is made monotone, over all recall points (VOC's all-point rule; COCO samples it at 101
points, which differs in the third digit). "Difficult" boxes and crowds are neither hits nor misses. A box may be hit once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeprune.data.labels import CROWD
from edgeprune.measure.bootstrap import Interval, drawn_weights
from edgeprune.models.boxes import common, inside, overlaps

OVERLAPS = tuple(round(0.5 + 0.05 * n, 2) for n in range(10))
Predict = Callable[[np.ndarray], Sequence[np.ndarray]]


@dataclass(frozen=True)
class Hits:
    """One class's detections over all images, the best score first.

    Attributes:
        image: (D,) which image each is in.
        hit: (T, D) 1 a hit, 0 a miss, -1 not judged, at each overlap.
        there: (N,) judged boxes of the class in each image.
    """

    image: np.ndarray
    hit: np.ndarray
    there: np.ndarray


@dataclass(frozen=True)
class Detections:
    """How well boxes fit. All values are 0 to 1.

    Attributes:
        map50: mean over classes of AP at an overlap of 0.5.
        map: the mean over overlaps 0.5 to 0.95, too.
        ap50: a class; None where no image holds it.
        boxes: of each image (M, 6): x0, y0, x1, y1, class, score.
        hits: a class.
    """

    map50: float
    map: float
    ap50: dict[str, float | None]
    boxes: list[np.ndarray] = field(repr=False)
    hits: list[Hits] = field(repr=False)

    @property
    def score(self) -> float:
        """The task's metric."""
        return self.map50


def evaluate(predict: Predict, data: Any, batch: int = 8, tick: Callable[[int], None] | None = None) -> Detections:
    """Judge `predict` ((B, H, W, 3) uint8 to an image's (M, 6) boxes each) on every image of `data`."""
    found, truth = [], []
    for start in range(0, len(data), batch):
        pairs = [data[i] for i in range(start, min(start + batch, len(data)))]
        found += list(predict(np.stack([image for image, _ in pairs])))
        truth += [label for _, label in pairs]
        if tick:
            tick(len(pairs))
    return judge(found, truth, data.classes)


def judge(found: list[np.ndarray], truth: list[np.ndarray], classes: list[str]) -> Detections:
    """AP of each image's (M, 6) detections against its (L, 6) labels (`data.labels`)."""
    hits = [_hits(found, truth, k) for k in range(len(classes))]
    each = np.array([[_area(h.image, row, h.there) for row in h.hit] for h in hits])  # (K, T), NaN where none is there
    named = {c: (float(v) if np.isfinite(v) else None) for c, v in zip(classes, each[:, 0], strict=True)}
    there = each[np.isfinite(each[:, 0])]
    return Detections(
        float(there[:, 0].mean()) if len(there) else 0.0, float(there.mean()) if len(there) else 0.0, named, found, hits
    )


def _hits(found: list[np.ndarray], truth: list[np.ndarray], k: int) -> Hits:
    image, score, hit = [], [], []
    there = np.zeros(len(found), dtype=np.int64)
    for n, (boxes, label) in enumerate(zip(found, truth, strict=True)):
        mine, wanted = boxes[boxes[:, 4] == k], label[label[:, 4] == k]
        there[n] = int((wanted[:, 5] == 0).sum())
        mine = mine[np.argsort(-mine[:, 5], kind="stable")]
        image += [n] * len(mine)
        score += mine[:, 5].tolist()
        hit.append(matched(mine, wanted))
    order = np.argsort(-np.array(score), kind="stable").astype(np.int64)
    joined = np.concatenate(hit, axis=1) if hit else np.zeros((len(OVERLAPS), 0), np.int8)
    return Hits(np.array(image, dtype=np.int64)[order], joined[:, order], there)


def matched(mine: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(T, D) of one image and class, the best first: each takes the free box that it overlaps most, judged ones before others."""
    result = np.zeros((len(OVERLAPS), len(mine)), dtype=np.int8)
    if not len(wanted) or not len(mine):
        return result
    ignored = wanted[:, 5] > 0
    table = np.where(wanted[:, 5] == CROWD, inside(mine, wanted), overlaps(mine, wanted))
    for t, least in enumerate(OVERLAPS):
        free = ~ignored
        for d, row in enumerate(table):
            best = int(np.argmax(np.where(free, row, -1)))
            if free[best] and row[best] >= least:
                free[best], result[t, d] = False, 1
            elif (row[ignored] >= least).any():
                result[t, d] = -1
    return result


def _area(image: np.ndarray, hit: np.ndarray, there: np.ndarray, weights: np.ndarray | None = None) -> Any:
    """AP of one class at one overlap; with (R, N) weights of the images, (R,) APs. NaN where nothing is there."""
    w = np.ones((1, len(there))) if weights is None else weights
    judged = hit >= 0
    each = w[:, image[judged]]
    right = np.cumsum(each * hit[judged], axis=1)
    precision = right / np.maximum(np.cumsum(each, axis=1), 1e-9)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    total = w @ there
    gained = np.diff(right, axis=1, prepend=0)
    areas = np.where(total > 0, (precision * gained).sum(1) / np.maximum(total, 1e-9), np.nan)
    return float(areas[0]) if weights is None else areas


def difference(a: Detections, b: Detections, resamples: int = 300, seed: int = 0) -> Interval:
    """mAP@0.5(b) - mAP@0.5(a) with its 95 % interval, images drawn in pairs."""
    weights = drawn_weights(len(a.boxes), resamples, seed).astype(np.float32)

    def drawn(of: Detections) -> np.ndarray:
        each = np.array([_area(h.image, h.hit[0], h.there, weights) for h in of.hits])
        good = np.isfinite(each)
        return np.where(good, each, 0).sum(0) / np.maximum(good.sum(0), 1)

    low, high = np.percentile(drawn(b) - drawn(a), [2.5, 97.5])
    return b.map50 - a.map50, float(low), float(high)


def agreement(a: Detections, b: Detections) -> np.ndarray:
    """(N,) of each image's sure boxes the share that both have (`models.boxes.common`)."""
    return np.array([common(x, y) for x, y in zip(a.boxes, b.boxes, strict=True)])
