"""What a task is: the one thing that the stages ask about loss, answers, judgement, parity, gates and pictures.

A task's *answer* is what a network says of an image as its engine gives it: a mask, logits, or a detector's raw heads. A *found*
is an evaluation of answers over a data set; stages only hand it back to the task and read its `score`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from edgeprune.deploy.export import Heads
from edgeprune.deploy.gates import Gate
from edgeprune.train.losses import Loss

Predict = Callable[[np.ndarray], np.ndarray]
Tick = Callable[[int], None]


@dataclass(frozen=True)
class Metric:
    """How a task's figures are called in `report.json` and on its pages.

    Attributes:
        key, name: of the metric.
        per_class, of_class: its key a class, and what it is called there.
        more: (key, name) of a second figure.
        agreement, agreed: key and name of the share of answers that engine and PyTorch have in common.
        answer: what comes out of an engine.
    """

    key: str
    name: str
    per_class: str
    of_class: str
    more: tuple[str, str]
    agreement: str
    agreed: str
    answer: str


class Found(Protocol):
    """An evaluation."""

    @property
    def score(self) -> float: ...


class Task(Protocol):
    """One task on one data set; made by (classes, size, network, by), `network` giving the untrained network when asked,
    `by` being what images are normalised by."""

    metric: Metric
    heads: tuple[str, ...]  # ways to write the graph's last step, the safe one first; of several, the fastest one ships
    scripts: tuple[Path, ...]  # what the check on the device needs besides its own
    classes: list[str]

    def loss(self, cfg: Any, data: Any) -> Loss:
        """The loss of `recipe.Loss`, with class weights from `data` where it asks for them."""
        ...

    def apart(
        self, student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor | None = None, temperature: float = 1.0
    ) -> torch.Tensor:
        """How far a network's answers are from another's (distillation, the knapsack's sensitivity)."""
        ...

    def predictor(self, net: nn.Module) -> Predict:
        """(B, H, W, 3) uint8 images to (B, ...) answers by PyTorch, each image by itself, as an engine sees it."""
        ...

    def shipped(self, net: nn.Module, head: str, logits: bool = False) -> Heads:
        """The graph that ships: (1, H, W, 3) uint8 to the answer, with `outputs`, their names."""
        ...

    def evaluate(self, predict: Predict, data: Any, tick: Tick | None = None) -> Any:
        """Judge answers on every image."""
        ...

    def row(self, found: Any) -> dict[str, Any]:
        """A network's figures in the report, under the metric's keys."""
        ...

    def difference(self, a: Any, b: Any) -> tuple[float, float, float]:
        """metric(b) - metric(a) with its 95 % interval over images, 0 to 1."""
        ...

    def chance(self, found: Any) -> float:
        """What guessing reaches of the metric on these labels, 0 to 1, by the classes' frequencies alone."""
        ...

    def alike(self, a: np.ndarray, b: np.ndarray) -> float:
        """The share of two (B, ...) answers to the same images that both have in common."""
        ...

    def agreement(self, a: Any, b: Any) -> np.ndarray:
        """(N,) of each image the share of the answer that both have in common."""
        ...

    def parity(self, reference: Any, engine: Any) -> dict[str, Any]:
        """Differences engine - reference, in points."""
        ...

    def gates(self, limits: Any, parity: dict[str, Any], judged: dict[str, Any]) -> list[Gate]:
        """The gates on answers that `recipe.Gates` asks for."""
        ...

    def bundled(self, labels: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Arrays that the check on the device wants: labels, and what answers are decoded with."""
        ...

    def pictures(
        self, image: np.ndarray, label: np.ndarray, founds: dict[str, Any], index: int, data: Any
    ) -> list[tuple[str, np.ndarray]]:
        """(caption, (H, W, 3) uint8) of an image: truth, each network's answer, and where the first and the last differ."""
        ...
