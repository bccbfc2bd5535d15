"""PyTorch is judged as an engine runs: what it says of an image hangs on no image beside it, and is computed in whole f32."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from edgeprune.data.transforms import IMAGENET
from edgeprune.deploy.export import export
from edgeprune.measure import protocol
from edgeprune.prune.worth import Yardstick
from edgeprune.runtime.onnxruntime import OnnxRuntimeEngine
from edgeprune.tasks import TASKS
from edgeprune.train.distill import logits_loss

SIZE, CLASSES = (16, 24), list("abcde")
IMAGES = np.stack([np.full((*SIZE, 3), v) for v in (20, 90, 160, 250)]).astype(np.uint8)
IMAGES += np.random.default_rng(0).integers(0, 6, IMAGES.shape).astype(np.uint8)


class Compared(nn.Module):
    """Takes the mean of the batch off."""

    def forward(self, x):
        return x - x.mean(dim=0, keepdim=True).mean(dim=(2, 3), keepdim=True)


MIXING = {
    "norm": lambda: nn.BatchNorm2d(8, track_running_stats=False),
    "mean": Compared,
}
ENDS = {
    "segmentation": lambda: nn.Conv2d(8, 5, 1),
    "classification": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
    "detection": lambda: nn.Sequential(nn.Conv2d(8, 9, 1), nn.Flatten(2), nn.Softsign()),
}


def net_of(task: str, kind: str) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), MIXING[kind](), nn.ReLU(), ENDS[task]()).eval()


def task_of(name: str):
    return TASKS[name](CLASSES, SIZE, lambda: None, IMAGENET)


@pytest.mark.parametrize("kind", MIXING)
@pytest.mark.parametrize("name", ENDS)
def test_a_task_sees_one_image_at_a_time(name, kind):
    net = net_of(name, kind)
    predict = task_of(name).predictor(net)
    alone = np.concatenate([predict(i[None]) for i in IMAGES])
    np.testing.assert_array_equal(predict(IMAGES), alone)
    with torch.no_grad():
        x = torch.from_numpy(IMAGES).permute(0, 3, 1, 2) / 255.0
        assert not torch.allclose(net(x), torch.cat([net(i[None]) for i in x]), atol=1e-3), "so the test can fail"


@pytest.mark.parametrize("kind", MIXING)
def test_the_graph_agrees_with_what_pytorch_is_judged_by(tmp_path, kind):
    task, net = task_of("segmentation"), net_of("segmentation", kind)
    export(task.shipped(net, "argmax"), SIZE, tmp_path / "n.onnx", 20)
    found = OnnxRuntimeEngine(tmp_path / "n.onnx").predict(IMAGES)
    assert (found == task.predictor(net)(IMAGES)).mean() > 0.999


@pytest.mark.parametrize("flip", [False, True])
def test_protocols_see_one_image_at_a_time(flip):
    cfg = SimpleNamespace(
        mode="whole", crop=None, stride=None, scales=[1.0], flip=flip, average="logits", short_side=None
    )
    predict = protocol.predictor(net_of("segmentation", "norm"), cfg, SIZE)
    np.testing.assert_array_equal(predict(IMAGES), np.concatenate([predict(i[None]) for i in IMAGES]))


class Asked(nn.Module):
    """Remembers how it is run."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.found = nn.Conv2d(3, 5, 1), []

    def forward(self, x):
        answer = self.a(x)
        self.found.append(
            (len(x), answer.dtype, torch.backends.cudnn.allow_tf32, self.training, torch.is_grad_enabled())
        )
        return answer


def test_judging_is_in_whole_f32_and_in_evaluation_mode():
    net = Asked().train()
    predict = task_of("segmentation").predictor(net)
    with torch.autocast("cpu", torch.bfloat16):
        predict(IMAGES)
    assert net.found == [(1, torch.float32, False, False, False)] * 4


def test_judging_leaves_the_switches_of_the_backends(monkeypatch):
    switches = torch.backends.cudnn
    monkeypatch.setattr(switches, "benchmark", True)
    monkeypatch.setattr(switches, "deterministic", True)
    monkeypatch.setattr(switches, "allow_tf32", True)
    products, seen = torch.get_float32_matmul_precision(), []

    def now():
        products = torch.get_float32_matmul_precision()
        return switches.benchmark, switches.deterministic, switches.allow_tf32, products

    net = Asked()
    net.a.register_forward_hook(lambda *args: seen.append(now()))
    torch.set_float32_matmul_precision("medium")
    try:
        task_of("segmentation").predictor(net)(IMAGES[:1])
        assert seen == [(True, True, False, "highest")] and now() == (True, True, True, "medium")
    finally:
        torch.set_float32_matmul_precision(products)


def test_the_yardstick_sees_one_image_at_a_time():
    net, x = Asked().eval(), torch.randn(4, 3, *SIZE)
    yard = Yardstick(net, [x[:3], x[3:]], logits_loss)
    other = Asked().eval()
    loss = yard.loss(other)
    assert [n for n, *_ in other.found] == [1] * 4
    with torch.no_grad():
        expected = np.mean([float(logits_loss(other.a(i[None]), net.a(i[None]))) for i in x])
    assert loss == pytest.approx(expected, rel=1e-5)
