"""Boxes in numpy: anchors, offsets, overlaps, and from a detector's raw heads to what it found.

One file for all sides: training, PyTorch's judgement, engines, and (copied into the bundle) the device itself. numpy only, no
import of ours, Python 3.8. Boxes are (x0, y0, x1, y1) in pixels; pixel i reaches from i to i + 1.
"""

import math

import numpy as np

_SPREAD = np.array([0.1, 0.1, 0.2, 0.2], dtype=np.float32)  # SSD's scaling of offsets, so that they are about 1


def grid_anchors(size, strides, shapes, scale=4.0):
    """(N, 4) float32 anchors: level by level, row by row, column by column, shape by shape.

    Args:
        size: (H, W) of the image; a level's map has ceil(H / stride) rows.
        shapes: (height / width, octave) of every anchor of a place; its side is scale * stride * 2 ** octave.
    """
    found = []
    for stride in strides:
        rows, columns = (int(math.ceil(side / stride)) for side in size)
        side = scale * stride * np.array([2.0**octave for _, octave in shapes])
        ratio = np.sqrt(np.array([r for r, _ in shapes]))
        w, h = (np.tile(v, (rows, columns, 1)) for v in (side / ratio, side * ratio))
        y = ((np.arange(rows) + 0.5) * stride)[:, None, None]
        x = ((np.arange(columns) + 0.5) * stride)[None, :, None]
        found.append(np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], axis=-1).reshape(-1, 4))
    return np.concatenate(found).astype(np.float32)


def overlaps(a, b):
    """(M, N) intersection over union of (M, 4) and (N, 4) boxes; 0 where both are empty."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:4], b[None, :, 2:4])
    both = np.prod(np.clip(high - low, 0, None), axis=-1)
    area_a, area_b = (np.prod(np.clip(x[:, 2:4] - x[:, :2], 0, None), axis=-1) for x in (a, b))
    return both / np.maximum(area_a[:, None] + area_b[None] - both, 1e-9)


def inside(a, b):
    """(M, N) share of each of (M, 4) boxes that lies in each of (N, 4): how COCO judges what overlaps a crowd."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:4], b[None, :, 2:4])
    area = np.prod(np.clip(a[:, 2:4] - a[:, :2], 0, None), axis=-1)
    return np.prod(np.clip(high - low, 0, None), axis=-1) / np.maximum(area[:, None], 1e-9)


def centred(boxes):
    """(N, 4) boxes as centre x, centre y, width, height."""
    size = boxes[:, 2:4] - boxes[:, :2]
    return np.concatenate([boxes[:, :2] + size / 2, size], axis=1)


def encode(boxes, anchors):
    """(N, 4) offsets of boxes from their anchors (SSD, Liu et al., ECCV 2016)."""
    b, a = centred(boxes), centred(anchors)
    offsets = np.concatenate([(b[:, :2] - a[:, :2]) / a[:, 2:], np.log(np.maximum(b[:, 2:], 1e-3) / a[:, 2:])], axis=1)
    return (offsets / _SPREAD).astype(np.float32)


def decode(offsets, anchors):
    """(N, 4) boxes of offsets: `encode` backwards."""
    o, a = offsets * _SPREAD, centred(anchors)
    centre, size = o[:, :2] * a[:, 2:] + a[:, :2], np.exp(np.minimum(o[:, 2:], 8.0)) * a[:, 2:]
    return np.concatenate([centre - size / 2, centre + size / 2], axis=1)


def suppress(boxes, scores, most_overlap):
    """Indices of the boxes that stay, the best first: none overlaps a better one by more than `most_overlap`."""
    order = np.argsort(-scores, kind="stable")
    near = overlaps(boxes[order], boxes[order]) > most_overlap
    alive = np.ones(len(order), dtype=bool)
    for i in range(len(order)):
        if alive[i]:
            alive[i + 1 :] &= ~near[i, i + 1 :]
    return order[alive]


def detections(heads, anchors, size, least=0.05, most_overlap=0.5, candidates=400, most=100):
    """What one image's heads found: (M, 6) float32, x0, y0, x1, y1, class, score, the best first.

    Args:
        heads: (N, K + 4) raw output, K class logits (sigmoid) and 4 offsets an anchor.
        size: (H, W); boxes are cut there.
        least: score.
        most_overlap: of two boxes of one class.
    """
    scores = 1 / (1 + np.exp(-np.clip(heads[:, :-4].astype(np.float32), -50, 50)))
    where, kinds = np.nonzero(scores > least)
    values = scores[where, kinds]
    top = np.argsort(-values, kind="stable")[:candidates]
    where, kinds, values = where[top], kinds[top], values[top]
    boxes = decode(heads[where, -4:].astype(np.float32), anchors[where])
    boxes[:, 0::2], boxes[:, 1::2] = boxes[:, 0::2].clip(0, size[1]), boxes[:, 1::2].clip(0, size[0])
    apart = kinds[:, None] * 2.0 * max(size)  # so that classes do not suppress each other
    kept = suppress(boxes + apart, values, most_overlap)[:most]
    return np.concatenate([boxes[kept], kinds[kept, None], values[kept, None]], axis=1).astype(np.float32)


def common(a, b, sure=0.3, same=0.9):
    """Of the boxes of two `detections` that score `sure` and more, the share that the other has too; 1 where there are none.

    The same box has the same class, an overlap of `same` and at least half of the score `sure`: a box that the other has just
    under `sure` is not held against it.
    """
    found, count = 0, 0
    for mine, other in ((a, b), (b, a)):
        mine, other = mine[mine[:, 5] >= sure], other[other[:, 5] >= sure / 2]
        count += len(mine)
        if len(mine) and len(other):
            alike = (overlaps(mine, other) >= same) & (mine[:, 4:5] == other[None, :, 4])
            found += int(alike.any(axis=1).sum())
    return found / count if count else 1.0
