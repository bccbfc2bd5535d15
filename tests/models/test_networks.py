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


def backbone_of(net, prefix="backbone."):
    """A file as ImageNet's are published: the backbone alone, and a classifier."""
    found = {
        k.removeprefix(prefix): torch.rand_like(v)
        for k, v in net.state_dict().items()
        if k.startswith(prefix) and v.is_floating_point()
    }
    return {**found, "fc.weight": torch.rand(1000, 8), "fc.bias": torch.rand(1000)}


def test_a_backbone_of_imagenet_starts_the_training(tmp_path):
    net = models.build("deeplabv3", {"depth": 18, "width": 8, "head": 16, "aux": False}, None, 5)
    head, published = net.classifier[-1].weight.detach().clone(), backbone_of(net)
    torch.save(published, tmp_path / "resnet.pth")
    assert models.load_backbone(net, tmp_path / "resnet.pth").count == len(published) - 2
    assert torch.equal(net.backbone.layer1[0].conv1.weight, published["layer1.0.conv1.weight"])
    assert torch.equal(net.classifier[-1].weight, head)
    del published["layer4.0.conv1.weight"]
    torch.save(published, tmp_path / "resnet.pth")
    with pytest.raises(CheckpointError, match=r"missing for the network's backbone, the first is backbone\.layer4"):
        models.load_backbone(net, tmp_path / "resnet.pth")
    other = models.build("deeplabv3", {"depth": 18, "width": 4, "head": 16, "aux": False}, None, 5)
    torch.save(backbone_of(other), tmp_path / "resnet.pth")
    with pytest.raises(CheckpointError, match="another shape in the network's backbone"):
        models.load_backbone(net, tmp_path / "resnet.pth")
    save_file(dict(models.build("streetnet", {"width": 8}, None, 5).state_dict()), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="not of the network's backbone"):
        models.load_backbone(net, tmp_path / "w.safetensors")


def test_a_deep_stem_is_found_under_its_published_names(tmp_path):
    net = models.build("pspnet", SMALL["pspnet"], None, 5)
    stem = {
        "layer0.0": "conv1",
        "layer0.1": "bn1",
        "layer0.3": "conv2",
        "layer0.4": "bn2",
        "layer0.6": "conv3",
        "layer0.7": "bn3",
    }
    published = {}
    for key, value in net.state_dict().items():
        module, _, leaf = key.rpartition(".")
        if key.startswith("layer") and value.is_floating_point():
            published[f"{stem.get(module, module)}.{leaf}"] = torch.rand_like(value)
    torch.save(published, tmp_path / "resnet50_v2.pth")
    assert models.load_backbone(net, tmp_path / "resnet50_v2.pth").count == len(published)
    assert torch.equal(net.layer0[6].weight, published["conv3.weight"])


def test_only_classifiers_are_left_out(tmp_path):
    narrow, wide = ({"depth": 18, "width": w, "head": 16, "aux": True} for w in (8, 16))
    net = models.build("deeplabv3", narrow, None, 5)
    save_file(dict(models.build("deeplabv3", narrow, None, 19).state_dict()), tmp_path / "w.safetensors")
    left = models.load_checkpoint(net, tmp_path / "w.safetensors", head=False).left
    assert left == ["aux_classifier.4.bias", "aux_classifier.4.weight", "classifier.4.bias", "classifier.4.weight"]
    save_file(dict(models.build("deeplabv3", wide, None, 19).state_dict()), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="this is more; another network or width"):
        models.load_checkpoint(net, tmp_path / "w.safetensors", head=False)


def test_what_lies_beside_the_weights_is_no_fault(tmp_path):
    """An averaged model's counter; sparse and 8-bit weights are read like others; numbers for names are told in one line."""
    net = models.build("streetnet", {"width": 8}, None, 3)
    averaged = {f"module.{k}": torch.ones_like(v) for k, v in net.state_dict().items()}
    averaged["module.classifier.weight"] = averaged["module.classifier.weight"].to_sparse()
    torch.save({"n_averaged": torch.tensor(7), **averaged}, tmp_path / "w.pt")
    models.load_checkpoint(net, tmp_path / "w.pt")
    assert (net.classifier.weight == 1).all()
    torch.save({0: torch.ones(2), 1: torch.ones(2)}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="0 is Tensor, not a named tensor"):
        models.load_checkpoint(net, tmp_path / "w.pt")


def test_pidnets_context_is_signed():
    """Its first bottleneck ends without a ReLU, as the published weights expect; parameters and MACs do not tell."""
    torch.manual_seed(0)
    net = models.build("pidnet", SMALL["pidnet"], None, 5).eval()
    found = []
    net.layer5[0].register_forward_hook(lambda m, a, out: found.append(out))
    net(torch.randn(1, 3, 64, 64))
    assert found[0].min() < 0


def test_depthwise_weights_start_as_large_as_what_they_sum():
    net = models.build("segformer", SMALL["segformer"], None, 5)
    depthwise = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d) and m.groups > 1]
    assert depthwise and all(0.35 < m.weight.std() < 0.6 for m in depthwise)


@pytest.mark.parametrize(
    ("name", "args"), [("pspnet", {"depth": 18}), ("icnet", {"depth": 18}), ("enet", {"widths": [16, 64]})]
)
def test_arguments_that_make_no_network_are_told(name, args):
    with pytest.raises(ModelError, match=f"model.args: {name} does not take them"):
        models.build(name, args, None, 5)
