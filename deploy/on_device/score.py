"""Masks against labels and against PyTorch's masks. numpy only; runs on the device."""

import numpy as np


def confusion(truth, found, classes):
    """(K, K) pixel counts, rows = truth; pixels whose truth is no class are left out."""
    judged = truth < classes
    pairs = truth[judged].astype(np.int64) * classes + found[judged]
    return np.bincount(pairs, minlength=classes * classes)[: classes * classes].reshape(classes, classes)


def iou(matrix):
    """(K,) IoU of each class; NaN where it is neither there nor found."""
    hit = np.diag(matrix).astype(float)
    union = matrix.sum(0) + matrix.sum(1) - hit
    return np.divide(hit, union, out=np.full(len(hit), np.nan), where=union > 0)


def judge(labels, masks, classes):
    """mIoU and the IoU of each class over (N, H, W) masks."""
    each = iou(sum(confusion(t, f, len(classes)) for t, f in zip(labels, masks)))
    return {
        "miou": float(np.nanmean(each)),
        "iou_per_class": {c: (None if np.isnan(v) else float(v)) for c, v in zip(classes, each)},
    }


def ratio(slow, fast, seed=0):
    """Median of slow / fast over pairs, with its 95 % bootstrap interval."""
    pairs = np.asarray(slow) / np.asarray(fast)
    drawn = np.random.RandomState(seed).choice(pairs, size=(2000, len(pairs)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return {"median": float(np.median(pairs)), "ci95": [float(low), float(high)]}


def spread(times):
    """Percentiles of a series of milliseconds."""
    times = np.asarray(times)
    p50, p90, p95, p99 = (float(v) for v in np.percentile(times, [50, 90, 95, 99]))
    return {
        "count": len(times), "p50": p50, "p90": p90, "p95": p95, "p99": p99, "min": float(times.min()), "mean": float(times.mean()),
        "cv": float(times.std() / times.mean()), "times_ms": [round(float(t), 4) for t in times],
    }  # fmt: skip


def gates(limits, result):
    """The gates that can be judged on the device; each {"name", "limit", "value", "passed"}."""
    found = []

    def gate(name, value, passed):
        if limits.get(name) is not None:
            found.append({"name": name, "limit": limits[name], "value": value, "passed": bool(passed(limits[name]))})

    drop = 100 * (result["engine"]["miou"] - result["pytorch"]["miou"])
    gate("miou_drop", drop, lambda limit: abs(drop) <= limit)
    worst = max(
        (100 * (v - result["pytorch"]["iou_per_class"][c]) for c, v in result["engine"]["iou_per_class"].items()
         if v is not None and result["pytorch"]["iou_per_class"][c] is not None),
        key=abs, default=0.0,
    )  # fmt: skip
    gate("class_drop", worst, lambda limit: abs(worst) <= limit)
    gate("pixel_agreement", result["pixel_agreement"], lambda limit: result["pixel_agreement"] >= limit)
    miou = 100 * result["engine"]["miou"]
    gate("min_miou", miou, lambda limit: miou >= limit)
    speedup = result.get("speedup")
    gate(
        "min_speedup", speedup and speedup["ci95"][0], lambda limit: speedup is not None and speedup["ci95"][0] >= limit
    )
    return found
