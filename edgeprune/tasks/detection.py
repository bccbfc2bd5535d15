"""Detection: boxes with classes, judged by mAP. The engine gives a detector's raw heads, float32 (1, N, K + 4).

Sigmoid, decoding and suppression are outside of the graph, in numpy (`models.boxes.detections`), the same for PyTorch and engines.
A network of your own has a method `anchors((H, W))` that gives (N, 4) boxes.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgeprune.data.labels import drawn_boxes
from edgeprune.data.transforms import IMAGENET, Normalisation
from edgeprune.deploy import gates as gating
from edgeprune.deploy.export import Heads
from edgeprune.deploy.gates import Gate
from edgeprune.deploy.parity import worst
from edgeprune.errors import ModelError
from edgeprune.measure import ap
from edgeprune.measure.alone import each_alone
from edgeprune.measure.ap import Detections
from edgeprune.models import boxes as decoding
from edgeprune.models import logits_of
from edgeprune.tasks.task import Metric, Predict, Tick
from edgeprune.train import boxes
from edgeprune.train.losses import Loss

_SHOWN = 0.3  # score from which a box is drawn


class Detection:
    """See `tasks.task.Task`."""

    metric = Metric(
        "map50", "mAP@0.5", "ap50_per_class", "AP@0.5", ("map", "mAP@0.5:0.95"), "box_agreement", "boxes like PyTorch's",
        "raw heads",
    )  # fmt: skip
    heads: tuple[str, ...] = ("heads",)
    scripts: tuple[Path, ...] = (Path(decoding.__file__),)  # the very file that the host decodes with
    apart = staticmethod(boxes.divergence)

    def __init__(self, classes: list[str], size: tuple[int, int], network: Any, by: Normalisation = IMAGENET) -> None:
        self.classes, self.size, self._network, self.by = classes, size, network, by

    @cached_property
    def anchors(self) -> np.ndarray:
        """(N, 4) of the recipe's network at `data.size`.

        Raises:
            ModelError: it tells of none.
        """
        net = self._network()
        if not callable(getattr(net, "anchors", None)):
            raise ModelError(f"model: {type(net).__name__} has no method anchors((H, W)), which task: detection needs")
        return np.asarray(net.anchors(self.size), dtype=np.float32)

    def loss(self, cfg: Any, data: Any) -> Loss:
        anchors = torch.from_numpy(self.anchors)

        def loss(output: Any, labels: torch.Tensor) -> torch.Tensor:
            heads = logits_of(output)
            return boxes.detection_loss(heads, labels, anchors.to(heads.device), cfg)

        return loss

    def predictor(self, net: nn.Module) -> Predict:
        return each_alone(net, self.by, lambda image: logits_of(net(image)).float())

    def shipped(self, net: nn.Module, head: str, logits: bool = False) -> Heads:
        return Heads(net, *self.by, "heads")

    def evaluate(self, predict: Predict, data: Any, tick: Tick | None = None) -> Detections:
        def boxes_in(images: np.ndarray) -> list[np.ndarray]:
            return [decoding.detections(heads, self.anchors, self.size) for heads in predict(images)]

        return ap.evaluate(boxes_in, data, tick=tick)

    def row(self, found: Detections) -> dict[str, Any]:
        return {"map50": found.map50, "ap50_per_class": found.ap50, "map": found.map}

    def difference(self, a: Detections, b: Detections) -> tuple[float, float, float]:
        return ap.difference(a, b)

    def chance(self, found: Detections) -> float:
        return 0.0  # boxes drawn at random hardly ever overlap by half

    def alike(self, a: np.ndarray, b: np.ndarray) -> float:
        found = [[decoding.detections(heads, self.anchors, self.size) for heads in answers] for answers in (a, b)]
        return float(np.mean([decoding.common(x, y) for x, y in zip(*found, strict=True)]))

    def agreement(self, a: Detections, b: Detections) -> np.ndarray:
        return ap.agreement(a, b)

    def parity(self, reference: Detections, engine: Detections) -> dict[str, Any]:
        difference, low, high = ap.difference(reference, engine)
        return {
            "map50_difference": 100 * difference,
            "map50_difference_ci95": [100 * low, 100 * high],
            "map_difference": 100 * (engine.map - reference.map),
            **worst(reference.ap50, engine.ap50),
            "box_agreement": float(ap.agreement(reference, engine).mean()),
            "images": len(reference.boxes),
        }

    def gates(self, limits: Any, parity: dict[str, Any], judged: dict[str, Any]) -> list[Gate]:
        low, high = parity["map50_difference_ci95"]
        note = f"95 % [{low:+.3f}, {high:+.3f}]"
        found = gating.at_most("map_drop", limits.map_drop, parity["map50_difference"], note)
        found += gating.at_most(
            "class_drop", limits.class_drop, parity["worst_class_difference"], parity["worst_class"]
        )
        found += gating.at_least("box_agreement", limits.box_agreement, parity["box_agreement"])
        return found + gating.at_least("min_map", limits.min_map, 100 * judged["map50"])

    def bundled(self, labels: list[np.ndarray]) -> dict[str, np.ndarray]:
        return {"anchors": self.anchors}  # mAP is not judged there, only that the boxes are PyTorch's

    def pictures(
        self, image: np.ndarray, label: np.ndarray, founds: dict[str, Detections], index: int, data: Any
    ) -> list[tuple[str, np.ndarray]]:
        cells = [("truth", drawn_boxes(image, label, data))]
        for name, found in founds.items():
            sure = found.boxes[index][found.boxes[index][:, 5] >= _SHOWN]
            cells.append((f"{name}: {len(sure)} boxes", drawn_boxes(image, sure[:, :5], data)))
        return cells
