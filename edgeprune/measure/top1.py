"""Accuracy of classification: the share of images whose highest logit is their class (top-1), as a whole and a class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeprune.measure.bootstrap import Interval, mean_difference

Predict = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Accuracy:
    """How well logits name the class. All values are 0 to 1.

    Attributes:
        per_class: of the images of each class the share that is named so; None where there are none.
        balanced: the mean over classes.
        commonest: the share of images that are of the most frequent class.
        logits: (N, K) f32.
        right: (N,) bool.
    """

    top1: float
    per_class: dict[str, float | None]
    balanced: float
    commonest: float
    logits: np.ndarray = field(repr=False)
    right: np.ndarray = field(repr=False)

    @property
    def score(self) -> float:
        """The task's metric."""
        return self.top1


def evaluate(predict: Predict, data: Any, batch: int = 32, tick: Callable[[int], None] | None = None) -> Accuracy:
    """Judge `predict` ((B, H, W, 3) uint8 to (B, K) logits) on every image of `data`.

    Raises:
        ValueError: the logits are not one a class.
    """
    classes, found, truth = len(data.classes), [], []
    for start in range(0, len(data), batch):
        pairs = [data[i] for i in range(start, min(start + batch, len(data)))]
        found.append(np.asarray(predict(np.stack([image for image, _ in pairs])), dtype=np.float32))
        truth += [int(label) for _, label in pairs]
        if tick:
            tick(len(pairs))
    logits, labels = np.concatenate(found), np.array(truth)
    if logits.shape != (len(labels), classes):
        raise ValueError(f"logits {logits.shape}, wanted {(len(labels), classes)}")
    right = logits.argmax(1) == labels
    each = [float(right[labels == k].mean()) if (labels == k).any() else None for k in range(classes)]
    there = [v for v in each if v is not None]
    named = dict(zip(data.classes, each, strict=True))
    commonest = float(np.bincount(labels).max() / len(labels))
    return Accuracy(float(right.mean()), named, float(np.mean(there)), commonest, logits, right)


def difference(a: Accuracy, b: Accuracy) -> Interval:
    """top-1(b) - top-1(a) with its 95 % interval, images drawn in pairs."""
    return mean_difference(a.right.astype(float), b.right.astype(float))


def agreement(a: Accuracy, b: Accuracy) -> np.ndarray:
    """(N,) 1 where both name the same class."""
    return (a.logits.argmax(1) == b.logits.argmax(1)).astype(float)
