"""Parity: how the answers of an engine differ from PyTorch's, on the same real images."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeprune.measure.bootstrap import miou_difference, worst_class
from edgeprune.measure.miou import Evaluation


def parity(reference: Evaluation, engine: Evaluation, classes: list[str]) -> dict[str, Any]:
    """Differences engine - reference; mIoU, class and boundary ones in points (0 to 100), with a 95 % interval for mIoU."""
    difference, low, high = miou_difference(reference.matrices, engine.matrices)
    worst, by = worst_class(reference.matrices, engine.matrices)
    return {
        "miou_difference": 100 * difference,
        "miou_difference_ci95": [100 * low, 100 * high],
        "worst_class": classes[worst],
        "worst_class_difference": 100 * by,
        "boundary_difference": 100 * (engine.boundary_iou - reference.boundary_iou),
        "pixel_agreement": float((reference.masks == engine.masks).mean()),
        "images": len(reference.masks),
    }


def worst(reference: dict[str, float | None], engine: dict[str, float | None]) -> dict[str, Any]:
    """The class whose figure (0 to 1) differs most, and by how many points; of classes that have one in both."""
    differences = {
        name: 100 * (b - a) for name, a in reference.items() if a is not None and (b := engine[name]) is not None
    }
    name = max(differences, key=lambda n: abs(differences[n]), default="")
    return {"worst_class": name, "worst_class_difference": differences.get(name, 0.0)}


def lost(dense: dict[str, float | None], pruned: dict[str, float | None]) -> dict[str, Any]:
    """The class whose figure (0 to 1) falls most, and its change in points; 0 where none falls."""
    changes = {n: 100 * ((pruned[n] or 0.0) - a) for n, a in dense.items() if a is not None}
    name = min(changes, key=lambda n: changes[n], default="")
    return {"lost_class": name, "lost_class_difference": min(0.0, changes.get(name, 0.0))}


def agreement_per_image(reference: Evaluation, engine: Evaluation) -> np.ndarray:
    """(N,) share of pixels with the same class."""
    return (reference.masks == engine.masks).reshape(len(reference.masks), -1).mean(axis=1)
