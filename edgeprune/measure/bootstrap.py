"""Bootstrap intervals: of a difference of mIoU or of means over the same images, and of a ratio of paired times."""

from __future__ import annotations

import numpy as np

from edgeprune.measure.miou import iou, miou

Interval = tuple[float, float, float]
_FEWEST = 5  # images; of fewer, resamples say nothing of what others would give


def drawn_weights(count: int, resamples: int, seed: int) -> np.ndarray:
    """(R, N): how often each image stands in each resample."""
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)


def miou_difference(a: np.ndarray, b: np.ndarray, resamples: int = 1000, seed: int = 0) -> Interval:
    """mIoU(b) - mIoU(a) with its 95 % interval, images drawn in pairs. a, b: (N, K, K) counts of the same images.

    Of fewer than five images the interval is all that can be, -1 to 1.
    """
    n, k, _ = a.shape
    difference = float(miou(b.sum(0)) - miou(a.sum(0)))
    if n < _FEWEST:
        return difference, -1.0, 1.0
    w = drawn_weights(n, resamples, seed).astype(float)
    drawn = [miou((w @ m.reshape(n, -1)).reshape(-1, k, k)) for m in (a, b)]
    low, high = np.percentile(drawn[1] - drawn[0], [2.5, 97.5])
    return difference, float(low), float(high)


def mean_difference(a: np.ndarray, b: np.ndarray, resamples: int = 1000, seed: int = 0) -> Interval:
    """mean(b) - mean(a) with its 95 % interval, images drawn in pairs. a, b: (N,) values of the same images."""
    difference = float(b.mean() - a.mean())
    if len(a) < _FEWEST:
        return difference, -1.0, 1.0
    drawn = drawn_weights(len(a), resamples, seed) @ (b - a) / len(a)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return difference, float(low), float(high)


def worst_class(a: np.ndarray, b: np.ndarray) -> tuple[int, float]:
    """The class whose IoU differs most between a and b, and the difference (b - a)."""
    difference = np.nan_to_num(iou(b.sum(0)) - iou(a.sum(0)))
    worst = int(np.argmax(np.abs(difference)))
    return worst, float(difference[worst])


def time_median(times: np.ndarray, resamples: int = 2000, seed: int = 0) -> Interval:
    """Median of times taken one after the other, with its 95 % interval.

    Resampled in blocks (Künsch, 1989): what slows one call often slows the next ones, too.
    """
    times = np.asarray(times)
    count, block = len(times), max(1, round(len(times) ** 0.5))
    starts = np.random.default_rng(seed).integers(0, count, size=(resamples, -(-count // block)))
    drawn = times[((starts[..., None] + np.arange(block)) % count).reshape(resamples, -1)[:, :count]]
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return float(np.median(times)), float(low), float(high)


def time_ratio(slow: np.ndarray, fast: np.ndarray, resamples: int = 2000, seed: int = 0) -> Interval:
    """median(slow / fast) of pairs taken one after the other, with its 95 % interval, resampled in blocks.

    What a neighbour on the same core or cache does slows two engines by different factors, and for seconds.
    """
    return time_median(np.asarray(slow) / np.asarray(fast), resamples, seed)
