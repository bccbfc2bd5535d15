"""Boundary IoU (Cheng et al., CVPR 2021): the IoU of the parts of masks that lie within d pixels of their edges."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import maximum_filter, minimum_filter

_SHARE = 0.02  # d as a share of the image's diagonal, as in the paper


def boundary(label: np.ndarray, distance: int) -> np.ndarray:
    """(H, W) bool: pixels with another class, or the image's edge, within `distance` (square window).

    One filter serves all classes: a window that holds two ids is exactly where every class's erosion fails.
    """
    padded = np.pad(label.astype(np.int16), distance, constant_values=-1)
    size = 2 * distance + 1
    inner = np.s_[distance:-distance, distance:-distance]
    return (maximum_filter(padded, size)[inner] != label) | (minimum_filter(padded, size)[inner] != label)


class BoundaryCounts:
    """Sums intersections and unions of boundary parts over images."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.both, self.either, self.there = (np.zeros(classes, np.int64) for _ in range(3))

    def add(self, truth: np.ndarray, found: np.ndarray) -> None:
        """Count one image; pixels that are not judged take no part, and classes end at them, in truth and prediction alike."""
        distance = max(1, round(_SHARE * float(np.hypot(*truth.shape))))
        judged = truth < self.classes
        found = np.where(judged, found, truth)
        edge_t, edge_f = boundary(truth, distance) & judged, boundary(found, distance) & judged
        same = edge_t & edge_f & (truth == found)
        both = self._count(truth[same])
        self.both += both
        there = self._count(truth[edge_t])
        self.there += there
        self.either += there + self._count(found[edge_f]) - both

    def _count(self, ids: np.ndarray) -> np.ndarray:
        return np.bincount(ids, minlength=self.classes)[: self.classes]

    def iou(self) -> np.ndarray:
        """(K,), NaN where a class has no boundary in the truth."""
        return np.divide(self.both, self.either, out=np.full(self.classes, np.nan), where=self.there > 0)

    def mean(self) -> float:
        """Mean over the classes that have one."""
        each = self.iou()
        return float(np.nanmean(each)) if np.isfinite(each).any() else 0.0
