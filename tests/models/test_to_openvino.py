"""Every network of the field, small: exported, simplified, compiled by OpenVINO in f32, and as PyTorch has it."""

import numpy as np
import onnx
import onnxsim
import pytest
import torch
from torch import nn

from edgeprune import models
from edgeprune.data.transforms import IMAGENET, normalised
from edgeprune.deploy import simplify
from edgeprune.deploy.export import Shipped, export
from edgeprune.deploy.unpool import without_indices
from edgeprune.runtime import openvino
from tests.models.small import SMALL, Centred

SIZE = (64, 96)
IMAGES = np.random.default_rng(0).integers(0, 255, (2, *SIZE, 3)).astype(np.uint8)
ELSEWHERE = {"deeplabv3", "deeplabv3plus", "segnet", "streetnet"}  # tests/deploy/test_deploy.py
AUX = {"pspnet": "aux.", "icnet": "aux", "bisenetv2": "aux", "ddrnet": "seghead_extra.", "pidnet": "seghead_p.",
       "fastscnn": "auxlayer."}  # fmt: skip


def in_process(source, attempt, seconds):
    """As `simplify._run`, without a process a network: that takes most of the time of such small ones."""
    model, good = onnxsim.simplify(str(source), check_n=0)
    onnx.save(model, attempt)
    return None if good else "not good"


@pytest.mark.parametrize("name", sorted(set(models.SEGMENTATION) - ELSEWHERE))
def test_agrees_with_pytorch(tmp_path, monkeypatch, name):
    torch.manual_seed(0)
    net = models.build(name, SMALL[name], None, 7).eval()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.3)
            m.running_var.uniform_(0.5, 2)
    net = Centred(net, IMAGES)
    plain = without_indices(net, torch.zeros(1, 3, *SIZE))
    export(Shipped(plain, *IMAGENET), SIZE, tmp_path / "n.onnx", 18)
    weights = {
        w.name.removeprefix("net.").removeprefix("net.") for w in onnx.load(tmp_path / "n.onnx").graph.initializer
    }
    if name in AUX:
        assert any(k.startswith(AUX[name]) for k in net.net.state_dict())
        assert not any(k.startswith(AUX[name]) for k in weights)

    monkeypatch.setattr(simplify, "_run", in_process)
    done = simplify.simplify(tmp_path / "n.onnx", tmp_path / "s.onnx", IMAGES)
    assert done.kept is None
    with torch.no_grad():
        expected = models.logits_of(net(normalised(IMAGES))).argmax(1).numpy()
    masks = openvino.compile(tmp_path / "s.onnx", tmp_path, precision="f32").predict(IMAGES)
    assert len(np.unique(expected)) > 3
    assert (masks == expected).mean() > 0.999
