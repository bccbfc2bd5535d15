"""2:4 weights: chosen by magnitude, kept through training, and still there in the graphs that TensorRT reads."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from edgeprune import models
from edgeprune.data import open_dataset
from edgeprune.data.loader import train_loader
from edgeprune.data.transforms import IMAGENET
from edgeprune.deploy import half, precision
from edgeprune.deploy.export import Shipped, export
from edgeprune.deploy.simplify import simplify
from edgeprune.recipe import Loss, Train
from edgeprune.train import sparse
from edgeprune.train.loop import Hooks, train
from edgeprune.train.losses import make_loss

IMAGES = np.random.default_rng(0).integers(0, 255, (3, 32, 64, 3)).astype(np.uint8)


def streetnet() -> nn.Module:
    torch.manual_seed(0)
    return models.build("streetnet", {"width": 8, "blocks": 1}, None, 9)


def in_fours(weight: np.ndarray) -> bool:
    fours = weight.reshape(len(weight), -1, 4, *weight.shape[2:])
    return bool(((fours != 0).sum(2) <= 2).all())


def test_the_greater_two_of_four_input_channels_stay():
    weight = torch.tensor([[1.0, -4, 3, 2, 0, 0, 0, 5]])[..., None, None]
    assert sparse.mask(weight).squeeze().tolist()[:4] == [False, True, True, False]
    stay = sparse.mask(weight).squeeze()[4:]
    assert stay[3] and stay.sum() == 2, "two stay of equals, too"
    kernels = torch.randn(8, 12, 3, 3)
    assert (sparse.mask(kernels).unflatten(1, (3, 4)).sum(2) == 2).all(), "each pixel of the kernel by itself"


def test_layers_that_cannot_come_in_fours_are_left_out():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 6, 1), nn.Linear(6, 4), nn.Linear(4, 4)
    )
    assert list(sparse.layers(net)) == ["2", "4"]


@pytest.mark.parametrize("cfg", [{"optimizer": "adamw", "ema": 0.9}, {"optimizer": "sgd", "clip_grad": 1.0}])
def test_training_moves_the_others_and_keeps_the_zeros(tmp_path: Path, cfg):
    net = streetnet()
    hold = sparse.apply(net)
    before = [w.detach().clone() for w in net.parameters()]
    schedule = Train(steps=3, batch=2, lr=0.01, weight_decay=0.01, **cfg)
    data = open_dataset("streets", None, "train", (32, 64), train=6)
    batches = train_loader(data, schedule, seed=1)
    train(
        net,
        batches,
        schedule,
        tmp_path,
        loss=make_loss(Loss(), None),
        seed=0,
        title="t",
        hooks=Hooks(after_backward=hold),
    )
    assert sparse.holds(net) and any(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    without = streetnet()
    sparse.apply(without)
    train(without, batches, schedule, tmp_path, loss=make_loss(Loss(), None), seed=0, title="t", hooks=Hooks())
    assert not sparse.holds(without), "so the test can fail"


def test_the_graphs_keep_them_in_every_type(tmp_path: Path):
    net = streetnet().eval()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.3)
            m.running_var.uniform_(0.5, 2)
    sparse.apply(net)
    export(Shipped(net, *IMAGENET), (32, 64), tmp_path / "net.onnx", 20)
    simplify(tmp_path / "net.onnx", tmp_path / "small.onnx", IMAGES)
    small = onnx.load(tmp_path / "small.onnx")
    low = precision.quantised(small, IMAGES)
    for graph in (small, half.to_float16(small), low):
        made = {n.output[0]: n for n in graph.graph.node}
        weights = {w.name: numpy_helper.to_array(w) for w in graph.graph.initializer}
        checked = 0
        for node in graph.graph.node:
            if node.op_type != "Conv" or any(a.name == "group" and a.i > 1 for a in node.attribute):
                continue
            name = node.input[1]
            while name not in weights:
                name = made[name].input[0]
            if weights[name].shape[1] % 4 == 0:
                assert in_fours(weights[name]), node.name
                checked += 1
        assert checked == len(sparse.layers(net))
