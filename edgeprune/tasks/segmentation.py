"""Segmentation: a class a pixel, judged by mIoU and boundary IoU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from edgeprune.data.dataset import IGNORE
from edgeprune.data.labels import drawn_mask
from edgeprune.data.transforms import IMAGENET, Normalisation
from edgeprune.deploy import gates as gating
from edgeprune.deploy import parity as comparing
from edgeprune.deploy.export import Heads, Shipped
from edgeprune.deploy.gates import Gate
from edgeprune.deploy.heads import COARSE, HEADS
from edgeprune.measure.alone import each_alone
from edgeprune.measure.bootstrap import miou_difference
from edgeprune.measure.miou import Evaluation, chance, evaluate
from edgeprune.models import logits_of
from edgeprune.tasks.task import Metric, Predict, Tick
from edgeprune.train.distill import logits_loss
from edgeprune.train.losses import Loss, class_weights, make_loss, spread_labels


class Segmentation:
    """See `tasks.task.Task`."""

    metric = Metric(
        "miou", "mIoU", "iou_per_class", "IoU", ("boundary_iou", "boundary IoU"), "pixel_agreement",
        "pixels like PyTorch's", "mask",
    )  # fmt: skip
    heads: tuple[str, ...] = (*HEADS, COARSE)
    scripts: tuple[Path, ...] = ()
    apart = staticmethod(logits_loss)

    def __init__(self, classes: list[str], size: tuple[int, int], network: Any, by: Normalisation = IMAGENET) -> None:
        self.classes, self.by = classes, by

    def loss(self, cfg: Any, data: Any) -> Loss:
        return make_loss(cfg, class_weights(cfg.class_weights, spread_labels(data), len(self.classes)))

    def predictor(self, net: nn.Module) -> Predict:
        def answer(image: torch.Tensor) -> torch.Tensor:
            logits = logits_of(net(image))
            if logits.shape[2:] != image.shape[2:]:  # as losses and shipped graphs have it
                logits = F.interpolate(logits, image.shape[2:], mode="bilinear", align_corners=False)
            return logits.argmax(1).to(torch.uint8)

        return each_alone(net, self.by, answer)

    def shipped(self, net: nn.Module, head: str, logits: bool = False) -> Heads:
        return Shipped(net, *self.by, logits, head)

    def evaluate(self, predict: Predict, data: Any, tick: Tick | None = None) -> Evaluation:
        return evaluate(predict, data, tick=tick)

    def row(self, found: Evaluation) -> dict[str, Any]:
        return {
            "miou": found.miou,
            "iou_per_class": found.iou,
            "boundary_iou": found.boundary_iou,
            "boundary_iou_per_class": found.boundary,
            "pixel_accuracy": found.pixel_accuracy,
        }

    def difference(self, a: Evaluation, b: Evaluation) -> tuple[float, float, float]:
        return miou_difference(a.matrices, b.matrices)

    def chance(self, found: Evaluation) -> float:
        return chance(found.matrices.sum(0))

    def alike(self, a: np.ndarray, b: np.ndarray) -> float:
        return float((a == b).mean())

    def agreement(self, a: Evaluation, b: Evaluation) -> np.ndarray:
        return comparing.agreement_per_image(a, b)

    def parity(self, reference: Evaluation, engine: Evaluation) -> dict[str, Any]:
        return comparing.parity(reference, engine, self.classes)

    def gates(self, limits: Any, parity: dict[str, Any], judged: dict[str, Any]) -> list[Gate]:
        low, high = parity["miou_difference_ci95"]
        note = f"95 % [{low:+.3f}, {high:+.3f}]"
        found = gating.at_most("miou_drop", limits.miou_drop, parity["miou_difference"], note)
        found += gating.at_most(
            "class_drop", limits.class_drop, parity["worst_class_difference"], parity["worst_class"]
        )
        found += gating.at_most("boundary_drop", limits.boundary_drop, parity["boundary_difference"])
        found += gating.at_least("pixel_agreement", limits.pixel_agreement, parity["pixel_agreement"])
        return found + gating.at_least("min_miou", limits.min_miou, 100 * judged["miou"])

    def bundled(self, labels: list[np.ndarray]) -> dict[str, np.ndarray]:
        return {"labels": np.stack(labels)}

    def pictures(
        self, image: np.ndarray, label: np.ndarray, founds: dict[str, Evaluation], index: int, data: Any
    ) -> list[tuple[str, np.ndarray]]:
        masks = {name: found.masks[index] for name, found in founds.items()}
        (first, a), (last, b) = next(iter(masks.items())), list(masks.items())[-1]
        judged = label != IGNORE
        differs = (a != b) & judged
        marked = (image * 0.35 + 150).astype(np.uint8)
        marked[differs] = (220, 20, 60)
        cells = [("truth", drawn_mask(image, label, data))]
        cells += [(name, drawn_mask(image, mask, data)) for name, mask in masks.items()]
        return [*cells, (f"{first} ≠ {last}: {100 * differs.sum() / max(judged.sum(), 1):.1f} %", marked)]
