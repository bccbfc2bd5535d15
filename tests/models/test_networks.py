from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from edgeprune import models
from edgeprune.errors import CheckpointError, ModelError
from edgeprune.train.distill import Tap
from edgeprune.train.losses import make_loss
from tests.models.small import SMALL

# The key names and shapes that torchvision's deeplabv3_resnet50 checkpoint has, sampled over all its parts.
TORCHVISION = {
    "backbone.conv1.weight": (64, 3, 7, 7),
    "backbone.bn1.running_var": (64,),
    "backbone.layer1.0.downsample.0.weight": (256, 64, 1, 1),
    "backbone.layer1.0.downsample.1.weight": (256,),
    "backbone.layer3.5.conv2.weight": (256, 256, 3, 3),
    "backbone.layer4.2.bn3.num_batches_tracked": (),
    "classifier.0.convs.0.0.weight": (256, 2048, 1, 1),
    "classifier.0.convs.3.0.weight": (256, 2048, 3, 3),
    "classifier.0.convs.4.1.weight": (256, 2048, 1, 1),
    "classifier.0.convs.4.2.bias": (256,),
    "classifier.0.project.0.weight": (256, 1280, 1, 1),
    "classifier.1.weight": (256, 256, 3, 3),
    "classifier.2.running_mean": (256,),
    "classifier.4.weight": (21, 256, 1, 1),
    "classifier.4.bias": (21,),
    "aux_classifier.0.weight": (256, 1024, 3, 3),
    "aux_classifier.1.weight": (256,),
    "aux_classifier.4.weight": (21, 256, 1, 1),
}


def test_torchvisions_key_names():
    state = models.build("deeplabv3", {}, None, 21).state_dict()
    for key, shape in TORCHVISION.items():
        assert tuple(state[key].shape) == shape, key
    assert len(state) == 370  # 61 convolutions with norms (6 tensors each) and two classifiers (2 each)
    assert {k.split(".")[0] for k in state} == {"backbone", "classifier", "aux_classifier"}


def test_a_torchvision_file_loads(tmp_path):
    net = models.build("deeplabv3", {"depth": 50}, None, 21)
    source = {k: torch.rand_like(v) if v.is_floating_point() else v for k, v in net.state_dict().items()}
    torch.save(source, tmp_path / "deeplabv3_resnet50_coco-cd0a2569.pth")
    models.load_checkpoint(net, tmp_path / "deeplabv3_resnet50_coco-cd0a2569.pth")
    assert all(torch.equal(v, source[k]) for k, v in net.state_dict().items())


def test_wrappers_prefixes_come_off(tmp_path):
    net = models.build("streetnet", {"width": 8}, None, 3)
    wrapped = {f"module._orig_mod.{k}": torch.ones_like(v) for k, v in net.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": wrapped}, tmp_path / "w.pt")
    models.load_checkpoint(net, tmp_path / "w.pt")
    assert (net.classifier.weight == 1).all()


def test_another_head_is_left_out_only_when_asked(tmp_path):
    save_file(dict(models.build("streetnet", {"width": 8}, None, 19).state_dict()), tmp_path / "w.safetensors")
    net = models.build("streetnet", {"width": 8}, None, 3)
    with pytest.raises(CheckpointError, match="classes"):
        models.load_checkpoint(net, tmp_path / "w.safetensors")
    models.load_checkpoint(net, tmp_path / "w.safetensors", head=False)


@pytest.mark.parametrize("name", models.SEGMENTATION)
def test_logits_have_the_inputs_size(name):
    net = models.build(name, SMALL[name], None, 7).eval()
    assert models.logits_of(net(torch.zeros(1, 3, 48, 80))).shape == (1, 7, 48, 80)


@pytest.mark.parametrize("name", models.SEGMENTATION)
def test_the_loss_of_all_heads_reaches_every_weight(name):
    torch.manual_seed(0)
    net = models.build(name, SMALL[name], None, 7).train()
    labels = torch.randint(0, 7, (2, 64, 96))
    make_loss(SimpleNamespace(kind="ce", aux_weight=0.4), None)(net(torch.randn(2, 3, 64, 96)), labels).backward()
    idle = [k for k, p in net.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert idle == []


@pytest.mark.parametrize("name", models.SEGMENTATION)
def test_distillation_watches_the_main_classifier(name):
    net = models.build(name, SMALL[name], None, 7).eval()
    tap = Tap(net, 7)
    logits = models.logits_of(net(torch.randn(1, 3, 64, 96)))
    assert tap.features is not None
    tap.features.retain_grad()
    logits.square().sum().backward()
    assert tap.features.grad is not None


def test_wrong_names_and_arguments():
    with pytest.raises(ModelError, match="not one of"):
        models.build("nonet", {}, None, 3)
    with pytest.raises(ModelError, match=r"model\.args"):
        models.build("streetnet", {"widht": 3}, None, 3)
    with pytest.raises(ModelError, match=r"package\.module:function"):
        models.build(None, {}, "math", 3)
    with pytest.raises(ModelError, match=r"not a torch\.nn\.Module"):
        models.build(None, {}, "builtins:dict", 3)
