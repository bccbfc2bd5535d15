"""Answers (masks, logits, a detector's heads) against labels and against PyTorch's. numpy only; runs on the device."""

import numpy as np


def confusion(truth, found, classes):
    """(K, K) pixel counts, rows = truth; pixels whose truth is no class are left out."""
    judged = truth < classes
    pairs = truth[judged].astype(np.int64) * classes + found[judged]
    return np.bincount(pairs, minlength=classes * classes)[: classes * classes].reshape(classes, classes)


def iou(matrix):
    """(K,) IoU of each class; NaN where the truth holds none of it."""
    hit, there = np.diag(matrix).astype(float), matrix.sum(1)
    return np.divide(hit, there + matrix.sum(0) - hit, out=np.full(len(hit), np.nan), where=there > 0)


def judge(labels, masks, classes):
    """mIoU and the IoU of each class over (N, H, W) masks."""
    each = iou(sum(confusion(t, f, len(classes)) for t, f in zip(labels, masks)))
    return {
        "miou": float(np.nanmean(each)),
        "iou_per_class": {c: (None if np.isnan(v) else float(v)) for c, v in zip(classes, each)},
    }


def accuracy(labels, logits, classes):
    """Top-1 and the accuracy of each class over (N, K) logits."""
    right = logits.argmax(1) == labels
    each = [right[labels == k] for k in range(len(classes))]
    return {
        "top1": float(right.mean()),
        "accuracy_per_class": {c: (float(r.mean()) if len(r) else None) for c, r in zip(classes, each)},
    }


def same_pixels(ours, theirs, data):
    return float((ours == theirs).mean())


def same_class(ours, theirs, data):
    return float((ours.argmax(1) == theirs.argmax(1)).mean())


def same_boxes(ours, theirs, data):
    """The mean over images of the share of boxes that both have."""
    import boxes  # a copy of edgeprune's own, which lies in bundles of detection

    size = data["images"].shape[1:3]
    found = [[boxes.detections(heads, data["anchors"], size) for heads in answers] for answers in (ours, theirs)]
    return float(np.mean([boxes.common(a, b) for a, b in zip(*found)]))


class Task:
    """What is judged: `judge` (None: no metric here, only agreement), the metric's key, name and figures a class, the gates."""

    def __init__(self, judge, key, name, per_class, drop, least, agreement, same):
        self.judge, self.key, self.name, self.per_class = judge, key, name, per_class
        self.drop, self.least, self.agreement, self.same = drop, least, agreement, same


TASKS = {
    "segmentation": Task(
        judge, "miou", "mIoU", "iou_per_class", "miou_drop", "min_miou", "pixel_agreement", same_pixels
    ),
    "classification": Task(
        accuracy, "top1", "top-1", "accuracy_per_class", "top1_drop", "min_top1", "top1_agreement", same_class
    ),
    "detection": Task(None, None, None, None, "map_drop", "min_map", "box_agreement", same_boxes),
}


ANSWERS = {"classes": "mask", "logits": "logits", "heads": "raw heads"}  # by the name of the graph's first output


def whole(output):
    """The boundary around an engine whose graph's output has this name: an array of the program's to another one."""
    return "image to %s" % ANSWERS.get(output, output)


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

    task = TASKS[result.get("task", "segmentation")]
    if task.judge:
        theirs, ours = result["pytorch"], result["engine"]
        drop = 100 * (ours[task.key] - theirs[task.key])
        gate(task.drop, drop, lambda limit: abs(drop) <= limit)
        worst = max(
            (100 * (v - theirs[task.per_class][c]) for c, v in ours[task.per_class].items()
             if v is not None and theirs[task.per_class][c] is not None),
            key=abs, default=0.0,
        )  # fmt: skip
        gate("class_drop", worst, lambda limit: abs(worst) <= limit)
    agreement = result[task.agreement]
    gate(task.agreement, agreement, lambda limit: agreement >= limit)
    if task.judge:
        reached = 100 * result["engine"][task.key]
        gate(task.least, reached, lambda limit: reached >= limit)
    speedup = result.get("speedup")
    trusted = speedup is not None and not result.get("during", {}).get("throttled")
    gate("min_speedup", speedup and speedup["ci95"][0], lambda limit: trusted and speedup["ci95"][0] >= limit)
    return found
