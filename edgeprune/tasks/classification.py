"""Classification: a class an image, judged by top-1. The engine gives float32 logits (1, K); the highest names the class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from edgeprune.data.labels import drawn_class
from edgeprune.data.transforms import IMAGENET, Normalisation
from edgeprune.deploy import gates as gating
from edgeprune.deploy.export import Heads
from edgeprune.deploy.gates import Gate
from edgeprune.deploy.parity import worst
from edgeprune.measure import top1
from edgeprune.measure.alone import each_alone
from edgeprune.measure.top1 import Accuracy
from edgeprune.models import logits_of
from edgeprune.tasks.task import Metric, Predict, Tick
from edgeprune.train.distill import logits_loss
from edgeprune.train.losses import Loss, class_weights, cross_entropy, spread_labels


class Classification:
    """See `tasks.task.Task`."""

    metric = Metric(
        "top1", "top-1", "accuracy_per_class", "accuracy", ("balanced", "mean over classes"), "top1_agreement",
        "images like PyTorch's", "logits",
    )  # fmt: skip
    heads: tuple[str, ...] = ("logits",)
    scripts: tuple[Path, ...] = ()
    apart = staticmethod(logits_loss)

    def __init__(self, classes: list[str], size: tuple[int, int], network: Any, by: Normalisation = IMAGENET) -> None:
        self.classes, self.by = classes, by

    def loss(self, cfg: Any, data: Any) -> Loss:
        weights = class_weights(cfg.class_weights, spread_labels(data, most=5000), len(self.classes))
        return lambda output, labels: cross_entropy(logits_of(output), labels, weights)

    def predictor(self, net: nn.Module) -> Predict:
        return each_alone(net, self.by, lambda image: logits_of(net(image)).float())

    def shipped(self, net: nn.Module, head: str, logits: bool = False) -> Heads:
        return Heads(net, *self.by, "logits")

    def evaluate(self, predict: Predict, data: Any, tick: Tick | None = None) -> Accuracy:
        return top1.evaluate(predict, data, tick=tick)

    def row(self, found: Accuracy) -> dict[str, Any]:
        return {"top1": found.top1, "accuracy_per_class": found.per_class, "balanced": found.balanced}

    def difference(self, a: Accuracy, b: Accuracy) -> tuple[float, float, float]:
        return top1.difference(a, b)

    def chance(self, found: Accuracy) -> float:
        return found.commonest

    def alike(self, a: np.ndarray, b: np.ndarray) -> float:
        return float((a.argmax(-1) == b.argmax(-1)).mean())

    def agreement(self, a: Accuracy, b: Accuracy) -> np.ndarray:
        return top1.agreement(a, b)

    def parity(self, reference: Accuracy, engine: Accuracy) -> dict[str, Any]:
        difference, low, high = top1.difference(reference, engine)
        return {
            "top1_difference": 100 * difference,
            "top1_difference_ci95": [100 * low, 100 * high],
            **worst(reference.per_class, engine.per_class),
            "top1_agreement": float(top1.agreement(reference, engine).mean()),
            "images": len(reference.right),
        }

    def gates(self, limits: Any, parity: dict[str, Any], judged: dict[str, Any]) -> list[Gate]:
        low, high = parity["top1_difference_ci95"]
        note = f"95 % [{low:+.3f}, {high:+.3f}]"
        found = gating.at_most("top1_drop", limits.top1_drop, parity["top1_difference"], note)
        found += gating.at_most(
            "class_drop", limits.class_drop, parity["worst_class_difference"], parity["worst_class"]
        )
        found += gating.at_least("top1_agreement", limits.top1_agreement, parity["top1_agreement"])
        return found + gating.at_least("min_top1", limits.min_top1, 100 * judged["top1"])

    def bundled(self, labels: list[np.ndarray]) -> dict[str, np.ndarray]:
        return {"labels": np.stack(labels)}

    def pictures(
        self, image: np.ndarray, label: np.ndarray, founds: dict[str, Accuracy], index: int, data: Any
    ) -> list[tuple[str, np.ndarray]]:
        cells = [(f"truth: {self.classes[int(label)]}", drawn_class(image, label, data))]
        for name, found in founds.items():
            sure = np.exp(found.logits[index] - found.logits[index].max())
            best = int(sure.argmax())
            told = f"{name}: {self.classes[best]}, {sure[best] / sure.sum():.0%}"
            cells.append((told, drawn_class(image, np.asarray(best), data)))
        return cells
