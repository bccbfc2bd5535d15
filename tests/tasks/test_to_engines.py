"""A classifier and a detector all the way: exported, simplified, compiled by OpenVINO, and as PyTorch has it."""

import numpy as np
import pytest
import torch
from torch import nn

from edgeprune import models
from edgeprune.deploy import simplify
from edgeprune.deploy.export import export
from edgeprune.runtime import BACKENDS
from edgeprune.tasks import METRICS, TASKS
from tests.models.small import SMALL

SIZE = (48, 64)
IMAGES = np.random.default_rng(0).integers(0, 255, (3, *SIZE, 3)).astype(np.uint8)
CLASSES = ["a", "b", "c", "d"]
CASES = {"classification": "resnet", "detection": "ssd"}


class Data:
    """Random labels for the random images."""

    def __init__(self, task: str) -> None:
        self.classes, self.task = CLASSES, task
        self.palette = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (9, 9, 9)]

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, n: int):
        if self.task == "classification":
            return IMAGES[n], np.asarray(n, dtype=np.uint8)
        return IMAGES[n], np.array([[4, 4, 30, 30, n, 0], [20, 10, 60, 40, 3, 1]], np.float32)


def made(task: str):
    torch.manual_seed(0)
    net = models.build(CASES[task], SMALL[CASES[task]], None, len(CLASSES)).eval()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.3)
            m.running_var.uniform_(0.5, 2)
    if task == "detection":
        for answer in net.answers:
            answer.weight.data.normal_(0, 0.02)  # so that it finds something, at scores that differ
            answer.bias.data.normal_(-1, 1)
    return net, TASKS[task](CLASSES, SIZE, lambda: net)


@pytest.mark.parametrize("task", CASES)
def test_engines_agree_with_pytorch(tmp_path, task):
    net, its = made(task)
    shipped = its.shipped(net, its.heads[0])
    export(shipped, SIZE, tmp_path / "n.onnx", 18)
    done = simplify.simplify(tmp_path / "n.onnx", tmp_path / "s.onnx", IMAGES)
    assert done.kept is None and done.difference < 1e-3
    data = Data(task)
    reference = its.evaluate(its.predictor(net), data)
    assert its.row(reference)[its.metric.key] == reference.score
    for backend in BACKENDS.values():
        if backend.__name__.endswith(("openvino", "onnxruntime")):
            engine = its.evaluate(backend.compile(tmp_path / "s.onnx", tmp_path, precision="f32").predict, data)
            parity = its.parity(reference, engine)
            assert parity[its.metric.agreement] == 1 and parity[f"{its.metric.key}_difference"] == pytest.approx(0)
            assert its.agreement(reference, engine).tolist() == [1, 1, 1]


@pytest.mark.parametrize("task", CASES)
def test_another_engine_is_noticed(task):
    net, its = made(task)
    data = Data(task)
    predict = its.predictor(net)
    reference = its.evaluate(predict, data)
    other = its.evaluate(lambda images: np.roll(predict(images), 1, axis=-1), data)
    parity = its.parity(reference, other)
    assert parity[its.metric.agreement] < 0.9

    class Limits:
        top1_drop = map_drop = class_drop = 1.0
        top1_agreement = box_agreement = 0.98
        min_top1 = min_map = 100.0

    gates = {g.name: g.passed for g in its.gates(Limits, parity, its.row(other))}
    assert not gates[its.metric.agreement] and len(gates) == 4
    cells = its.pictures(*data[0], {"dense": reference, "engine": other}, 0, data)
    assert [c.shape for _, c in cells] == [(*SIZE, 3)] * 3 and cells[0][0].startswith("truth")


def test_a_detector_without_anchors_is_refused():
    its = TASKS["detection"](CLASSES, SIZE, lambda: nn.Conv2d(3, 3, 1))
    with pytest.raises(Exception, match=r"Conv2d has no method anchors\(\(H, W\)\)"):
        its.anchors  # noqa: B018


def test_every_task_has_a_metric_of_its_own():
    assert set(METRICS) == set(TASKS) and len({m.key for m in METRICS.values()}) == 3
