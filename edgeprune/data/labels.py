"""What the labels of each task are, and what is done with them: moved along with a view, counted, drawn.

segmentation    (H, W) uint8, a class a pixel, 255 = not judged
classification  () uint8 or int64, the image's class
detection       (M, 6) float32, a box a row: x0, y0, x1, y1 in pixels, class, and 1 ("difficult") or 2 (a crowd) where it is not judged
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw

from edgeprune.data.dataset import IGNORE, Color, Dataset
from edgeprune.data.warp import warped
from edgeprune.errors import few

DIFFICULT, CROWD = 1, 2  # column 5 of boxes that are not judged
MOST_BOXES = 128  # rows of a training view's boxes, of more the largest; rows without a box have class -1
_VISIBLE = 0.3  # a box of which a view shows less is not judged
_PLAIN: Color = (255, 255, 255)


def moved_mask(label: np.ndarray, matrix: torch.Tensor, crop: tuple[int, int]) -> torch.Tensor:
    """(h, w) int64: the mask as the view has it; what lies outside the image is not judged."""
    y = torch.from_numpy(np.ascontiguousarray(label))[None, None].float() + 1  # so that 0 is "outside"
    y = warped(y, matrix, crop, "nearest")
    y = y.round().long()[0, 0] - 1
    return y.masked_fill(y < 0, IGNORE)


def moved_class(label: np.ndarray, matrix: torch.Tensor, crop: tuple[int, int]) -> torch.Tensor:
    """() int64: the class, whatever the view shows."""
    return torch.tensor(int(label))


def moved_boxes(label: np.ndarray, matrix: torch.Tensor, crop: tuple[int, int]) -> torch.Tensor:
    """(MOST_BOXES, 6) float32: the boxes in the view, cut at its edges; rows without a box have class -1."""
    (ax, _, tx), (_, ay, ty) = matrix[0].tolist()
    boxes = np.array(label, dtype=np.float32).reshape(-1, 6)
    for axis, scale, shift in ((0, ax, tx), (1, ay, ty)):  # pixel i reaches from i to i + 1
        ends = (boxes[:, axis : axis + 3 : 2] - 0.5) * scale + shift + 0.5
        boxes[:, axis : axis + 3 : 2] = np.sort(ends, axis=1)
    whole = areas(boxes)
    boxes[:, 0:4:2], boxes[:, 1:4:2] = boxes[:, 0:4:2].clip(0, crop[1]), boxes[:, 1:4:2].clip(0, crop[0])
    seen = areas(boxes)
    boxes[(seen < _VISIBLE * whole) & (boxes[:, 5] == 0), 5] = DIFFICULT  # a crowd stays one
    boxes = boxes[(boxes[:, 2] - boxes[:, 0] >= 1) & (boxes[:, 3] - boxes[:, 1] >= 1)]
    if len(boxes) > MOST_BOXES:
        boxes = boxes[np.argsort(-areas(boxes), kind="stable")[:MOST_BOXES]]
    rows = torch.zeros(MOST_BOXES, 6)
    rows[:, 4] = -1
    rows[: len(boxes)] = torch.from_numpy(boxes)
    return rows


def areas(boxes: np.ndarray) -> np.ndarray:
    """(M,) areas of (M, 4 or more) boxes."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _pixels(label: np.ndarray, classes: int) -> np.ndarray:
    counts = np.bincount(label.ravel(), minlength=256)
    return np.append(counts[:classes], counts[classes:].sum())


def _boxes(label: np.ndarray, classes: int) -> np.ndarray:
    judged = label[:, 5] == 0
    counts = np.bincount(label[judged, 4].astype(np.int64), minlength=classes)
    return np.append(counts, (~judged).sum())


def drawn_mask(image: np.ndarray, label: np.ndarray, data: Dataset) -> np.ndarray:
    """(H, W, 3): the classes' colours; white where nothing is judged."""
    colors = np.full((256, 3), _PLAIN, np.uint8)
    colors[: len(data.palette)] = data.palette
    return colors[label]


def drawn_class(image: np.ndarray, label: np.ndarray, data: Dataset) -> np.ndarray:
    """(H, W, 3): the image in a frame of its class's colour."""
    framed, edge = image.copy(), max(2, min(image.shape[:2]) // 10)
    inner = np.s_[edge:-edge, edge:-edge]
    framed[:] = data.palette[int(label)]
    framed[inner] = image[inner]
    return framed


def drawn_boxes(image: np.ndarray, label: np.ndarray, data: Dataset) -> np.ndarray:
    """(H, W, 3): the image with its boxes in their classes' colours; white where they are not judged.

    Args:
        label: (M, 5 or 6); column 5 is 1 or 2 for boxes that are not judged.
    """
    picture = Image.fromarray(image)
    pen, width = ImageDraw.Draw(picture), max(2, min(image.shape[:2]) // 160)
    for x0, y0, x1, y1, k, *ignored in label.tolist():
        color = _PLAIN if ignored and ignored[0] in (DIFFICULT, CROWD) else data.palette[int(k)]
        pen.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=tuple(color), width=width)
    return np.asarray(picture)


def unfit(task: str, split: str, classes: list[str], holders: np.ndarray, count: int) -> str | None:
    """Why nothing can be learnt from, or judged by, `count` labels; None where something can. One class of several teaches nothing, and
    can be judged by: of a few images that is to be expected.

    Args:
        split: "train" and "val" are told as training and validation.
        holders: (K,) labels that hold each class, where it is judged.
    """
    told = f"{count} {({'train': 'training', 'val': 'validation'}).get(split, split)} labels"
    hold = ". Labels hold class ids, 0 to K - 1, and 255 means not judged" if task == "segmentation" else ""
    never = [name for name, found in zip(classes, holders, strict=True) if not found]
    if not holders.any():
        return f"data: nothing that is judged lies in {told}{', no box' if task == 'detection' else ''}{hold}"
    if split == "train" and task != "detection" and len(never) == len(classes) - 1 > 0:
        return f"data: all that is judged in {told} is of one class; never there: {few(never)}{hold}"
    return None


@dataclass(frozen=True)
class Kind:
    """A task's labels.

    Attributes:
        move: label, (1, 2, 3) matrix from the image's pixel centres to the view's, view's (h, w) -> the view's label.
        count: label, K -> (K + 1,) how much of each class it holds, and last what is not judged.
        draw: image, label, data set -> a picture of the image's size.
        unit: what is counted.
    """

    move: Callable[[np.ndarray, torch.Tensor, tuple[int, int]], torch.Tensor]
    count: Callable[[np.ndarray, int], np.ndarray]
    draw: Callable[[np.ndarray, np.ndarray, Dataset], np.ndarray]
    unit: str


KINDS: dict[str, Kind] = {
    "segmentation": Kind(moved_mask, _pixels, drawn_mask, "pixels"),
    "classification": Kind(moved_class, _pixels, drawn_class, "images"),
    "detection": Kind(moved_boxes, _boxes, drawn_boxes, "boxes"),
}
