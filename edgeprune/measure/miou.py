"""Mean IoU, per class and per image, from confusion matrices, with boundary IoU and pixel accuracy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeprune.measure.boundary import BoundaryCounts

Predict = Callable[[np.ndarray], np.ndarray]


def confusion(truth: np.ndarray, found: np.ndarray, classes: int) -> np.ndarray:
    """(K, K) pixel counts, rows = truth, columns = found; pixels whose truth is not a class are left out."""
    judged = truth < classes
    pairs = truth[judged].astype(np.int64) * classes + found[judged]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def iou(matrix: np.ndarray) -> np.ndarray:
    """(..., K) IoU of each class from (..., K, K) counts; NaN where the truth holds none of it.

    Such a class is not 0 because a stray pixel was named so: that pixel would cost 1/K of the mean, and is counted against
    the class that is there. Where every class occurs in the labels, as in the published sets, this is the usual rule.
    """
    hit, there = np.diagonal(matrix, axis1=-2, axis2=-1).astype(float), matrix.sum(-1)
    return np.divide(hit, there + matrix.sum(-2) - hit, out=np.full_like(hit, np.nan), where=there > 0)


def miou(matrix: np.ndarray) -> np.ndarray:
    """Mean over the classes that are there."""
    each = iou(matrix)
    good = np.isfinite(each)
    return np.where(good, each, 0).sum(-1) / np.maximum(good.sum(-1), 1)


def chance(matrix: np.ndarray) -> float:
    """The mIoU of guessing by (K, K) counts' truth alone: one class everywhere, or classes as often as they are there."""
    there = matrix.sum(-1)
    p = there[there > 0] / max(there.sum(), 1)
    if not len(p):
        return 0.0
    return max(float(p.max()) / len(p), float((p / (2 - p)).mean()))


@dataclass(frozen=True)
class Evaluation:
    """How well masks fit. All values are 0 to 1; `matrices` is (N, K, K), an image each.

    `masks` is (N, H, W) uint8, or empty where they were not kept.
    """

    miou: float
    iou: dict[str, float | None]
    boundary_iou: float
    boundary: dict[str, float | None]
    pixel_accuracy: float
    matrices: np.ndarray = field(repr=False)
    masks: np.ndarray = field(repr=False)

    @property
    def score(self) -> float:
        """The task's metric."""
        return self.miou


def evaluate(
    predict: Predict, data: Any, batch: int = 4, tick: Callable[[int], None] | None = None, keep: bool = True
) -> Evaluation:
    """Judge `predict` ((B, H, W, 3) uint8 to (B, H, W) uint8 classes) on every image of `data`.

    Args:
        batch: images at once; 1 where they differ in size.
        keep: keep the masks, which all have one size then.

    Raises:
        ValueError: a mask has another size than its label, or holds an id that is no class.
    """
    classes = len(data.classes)
    matrices, masks, edges = [], [], BoundaryCounts(classes)
    for start in range(0, len(data), batch):
        pairs = [data[i] for i in range(start, min(start + batch, len(data)))]
        found = predict(np.stack([image for image, _ in pairs]))
        for mask, (_, label) in zip(found, pairs, strict=True):
            if mask.shape != label.shape or int(mask.max()) >= classes:
                raise ValueError(f"mask {mask.shape} with ids up to {mask.max()}, wanted {label.shape} and < {classes}")
            matrices.append(confusion(label, mask, classes))
            edges.add(label, mask)
            if keep:
                masks.append(mask)
        if tick:
            tick(len(pairs))
    stacked = np.stack(matrices)
    whole = stacked.sum(0)
    return Evaluation(
        miou=float(miou(whole)),
        iou=named(iou(whole), data.classes),
        boundary_iou=edges.mean(),
        boundary=named(edges.iou(), data.classes),
        pixel_accuracy=float(np.trace(whole) / max(whole.sum(), 1)),
        matrices=stacked,
        masks=np.stack(masks) if keep else np.empty(0, np.uint8),
    )


def named(values: np.ndarray, classes: list[str]) -> dict[str, float | None]:
    """Class name to value; None where there is none."""
    return {c: (float(v) if np.isfinite(v) else None) for c, v in zip(classes, values, strict=True)}
