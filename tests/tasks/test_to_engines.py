"""A classifier and a detector all the way: exported, simplified, compiled by OpenVINO, and as PyTorch has it."""

import numpy as np
import pytest
import torch
from torch import nn

from edgeprune import models
from edgeprune.data.transforms import Normalisation, normalised
from edgeprune.deploy import simplify, typed
from edgeprune.deploy.export import export, program
from edgeprune.runtime import BACKENDS
from edgeprune.runtime.onnxruntime import OnnxRuntimeEngine
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
def test_f16_in_the_graph_is_judged_by_the_task(tmp_path, task):
    net, its = made(task)
    export(its.shipped(net, its.heads[0]), SIZE, tmp_path / "n.onnx", 18)
    done = typed.write(tmp_path / "n.onnx", tmp_path / "h.onnx", "f16", list(IMAGES), its.alike)
    assert done["agreement"] >= 0.995 and done["f32_nodes"] == []  # the logits are not equal, what they say is
    ours, theirs = (OnnxRuntimeEngine(tmp_path / f"{name}.onnx").predict(IMAGES) for name in "hn")
    assert ours.dtype == np.float32 and 0 < np.abs(ours - theirs).max() < 0.1
    assert its.alike(ours, theirs) == 1 and its.alike(np.roll(theirs, 1, axis=-1), theirs) < 0.9


@pytest.mark.parametrize("task", CASES)
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_a_program_for_inductor_gives_floats_that_numpy_has(task, precision):
    net, its = made(task)
    run = program(its.shipped(net, its.heads[0]), SIZE, precision, "cpu").module()
    with torch.no_grad():
        found = run(torch.from_numpy(IMAGES[:1]))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), its.predictor(net)(IMAGES[:1]), atol=1e-4 if precision == "f32" else 0.5)


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


@pytest.mark.parametrize("task", TASKS)
def test_pytorch_and_the_graph_that_ships_take_the_same_normalisation_off(task):
    class Colours(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Parameter(torch.ones(1))

        def forward(self, x):
            x = x * self.one
            return x if task == "segmentation" else x.mean((2, 3))

    own = Normalisation((0.1, 0.6, 0.3), (0.9, 0.1, 0.4))
    made = TASKS[task](["a", "b", "c"], (8, 8), Colours, own)
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    seen = normalised(images, own)
    expected = seen.argmax(1) if task == "segmentation" else seen.mean((2, 3))
    found = made.shipped(Colours(), made.heads[0])(torch.from_numpy(images))
    for answer in (made.predictor(Colours())(images), found.detach().numpy()):
        np.testing.assert_allclose(answer, expected.numpy(), atol=1e-5)
