"""The tasks, by the name that a recipe uses: all that segmentation, classification and detection do differently."""

from __future__ import annotations

from collections.abc import Callable

from edgeprune.tasks.classification import Classification
from edgeprune.tasks.detection import Detection
from edgeprune.tasks.segmentation import Segmentation
from edgeprune.tasks.task import Metric, Task

__all__ = ["METRICS", "TASKS", "Metric", "Task"]

TASKS: dict[str, Callable[..., Task]] = {
    "segmentation": Segmentation,
    "classification": Classification,
    "detection": Detection,
}
METRICS: dict[str, Metric] = {
    "segmentation": Segmentation.metric,
    "classification": Classification.metric,
    "detection": Detection.metric,
}
