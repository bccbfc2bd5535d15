"""The key names of published code, sampled over all parts of each network, and the mappings where ours differ."""

import pytest
import torch

from edgeprune import models
from tests.models.small import SMALL

NAMES = {
    "pspnet": {  # hszhao/semseg, R50 on Cityscapes
        "layer0.0.weight": (64, 3, 3, 3),
        "layer0.7.running_mean": (128,),
        "layer1.0.downsample.0.weight": (256, 128, 1, 1),
        "layer4.2.bn3.weight": (2048,),
        "ppm.features.3.1.weight": (512, 2048, 1, 1),
        "ppm.features.0.2.bias": (512,),
        "cls.0.weight": (512, 4096, 3, 3),
        "cls.4.bias": (19,),
        "aux.0.weight": (256, 1024, 3, 3),
        "aux.4.weight": (19, 256, 1, 1),
    },
    "bisenetv2": {  # CoinCheung/BiSeNet
        "detail.S3.2.conv.weight": (128, 128, 3, 3),
        "segment.S1S2.left.0.bn.weight": (8,),
        "segment.S3.0.dwconv2.0.weight": (96, 1, 3, 3),
        "segment.S5_4.0.shortcut.2.weight": (128, 64, 1, 1),
        "segment.S5_5.conv_gap.conv.weight": (128, 128, 1, 1),
        "bga.left2.0.weight": (128, 128, 3, 3),
        "bga.right2.2.weight": (128, 128, 1, 1),
        "head.conv.conv.weight": (1024, 128, 3, 3),
        "head.conv_out.1.weight": (19, 1024, 1, 1),
        "aux5_4.conv_out.0.1.conv.weight": (1024, 128, 3, 3),
        "aux2.conv_out.1.weight": (19, 16, 1, 1),
    },
    "ddrnet": {  # ydhongHIT/DDRNet, 23-slim
        "conv1.3.bias": (32,),
        "layer3.0.downsample.0.weight": (128, 64, 1, 1),
        "layer3_.1.bn2.weight": (64,),
        "down4.3.weight": (256, 128, 3, 3),
        "layer5.0.conv3.weight": (512, 256, 1, 1),
        "spp.scale1.3.weight": (128, 512, 1, 1),
        "spp.scale0.2.weight": (128, 512, 1, 1),
        "spp.process4.2.weight": (128, 128, 3, 3),
        "spp.compression.0.weight": (640,),
        "seghead_extra.conv1.weight": (64, 64, 3, 3),
        "final_layer.conv2.weight": (19, 64, 1, 1),
    },
    "pidnet": {  # XuJiacong/PIDNet, S
        "layer3.2.conv1.weight": (128, 128, 3, 3),
        "layer5.1.conv1.weight": (256, 512, 1, 1),
        "compression4.0.weight": (64, 256, 1, 1),
        "pag3.f_x.0.weight": (32, 64, 1, 1),
        "layer3_d.downsample.0.weight": (32, 64, 1, 1),
        "layer4_d.0.conv3.weight": (64, 32, 1, 1),
        "diff4.0.weight": (64, 256, 3, 3),
        "spp.scale_process.2.weight": (384, 96, 3, 3),
        "dfm.conv_i.1.weight": (128,),
        "seghead_p.conv1.weight": (128, 64, 3, 3),
    },
    "fastscnn": {  # Tramac/Fast-SCNN-pytorch
        "learning_to_downsample.conv.conv.0.weight": (32, 3, 3, 3),
        "learning_to_downsample.dsconv2.conv.3.weight": (64, 48, 1, 1),
        "global_feature_extractor.bottleneck2.0.block.1.conv.0.weight": (384, 1, 3, 3),
        "global_feature_extractor.bottleneck3.2.block.2.weight": (128, 768, 1, 1),
        "global_feature_extractor.ppm.conv4.conv.0.weight": (32, 128, 1, 1),
        "global_feature_extractor.ppm.out.conv.1.weight": (128,),
        "feature_fusion.dwconv.conv.0.weight": (128, 1, 3, 3),
        "feature_fusion.conv_higher_res.0.bias": (128,),
        "classifier.dsconv2.conv.4.weight": (128,),
        "classifier.conv.1.weight": (19, 128, 1, 1),
        "auxlayer.4.weight": (19, 32, 1, 1),
    },
    "enet": {  # davidtvs/PyTorch-ENet
        "initial_block.main_branch.weight": (13, 3, 3, 3),
        "downsample1_0.ext_conv1.0.weight": (4, 16, 2, 2),
        "regular1_4.ext_conv3.0.weight": (64, 16, 1, 1),
        "asymmetric2_3.ext_conv2.3.weight": (32, 32, 1, 5),
        "dilated2_8.ext_conv2.1.weight": (32,),
        "regular3_0.ext_conv1.0.weight": (32, 128, 1, 1),
        "dilated3_7.out_prelu.weight": (128,),
        "upsample4_0.main_conv1.0.weight": (64, 128, 1, 1),
        "upsample5_0.ext_tconv1.weight": (16, 16, 2, 2),
        "transposed_conv.weight": (16, 19, 3, 3),
    },
    "erfnet": {  # Eromera/erfnet_pytorch
        "encoder.initial_block.conv.weight": (13, 3, 3, 3),
        "encoder.layers.6.bn.weight": (128,),
        "encoder.layers.14.conv3x1_2.weight": (128, 128, 3, 1),
        "decoder.layers.3.conv.weight": (64, 16, 3, 3),
        "decoder.output_conv.weight": (16, 19, 2, 2),
    },
    "unet": {  # milesial/Pytorch-UNet
        "inc.double_conv.3.weight": (64, 64, 3, 3),
        "down4.maxpool_conv.1.double_conv.0.weight": (1024, 512, 3, 3),
        "up1.up.weight": (1024, 512, 2, 2),
        "up4.conv.double_conv.0.weight": (64, 128, 3, 3),
        "outc.conv.bias": (19,),
    },
    "segformer": {  # Hugging Face
        "segformer.encoder.patch_embeddings.0.proj.weight": (32, 3, 7, 7),
        "segformer.encoder.patch_embeddings.3.layer_norm.bias": (256,),
        "segformer.encoder.block.0.1.attention.self.sr.weight": (32, 32, 8, 8),
        "segformer.encoder.block.2.0.attention.self.key.weight": (160, 160),
        "segformer.encoder.block.1.0.attention.output.dense.bias": (64,),
        "segformer.encoder.block.3.1.mlp.dwconv.dwconv.weight": (1024, 1, 3, 3),
        "segformer.encoder.layer_norm.2.weight": (160,),
        "decode_head.linear_c.0.proj.weight": (256, 32),
        "decode_head.linear_fuse.weight": (256, 1024, 1, 1),
        "decode_head.batch_norm.running_var": (256,),
        "decode_head.classifier.weight": (19, 256, 1, 1),
    },
}


@pytest.mark.parametrize("name", NAMES)
def test_published_names_and_shapes(name):
    with torch.device("meta"):
        tensors = models.build(name, {}, None, 19).state_dict()
    assert {k: tuple(tensors[k].shape) for k in NAMES[name]} == NAMES[name]


def loaded(tmp_path, name, published):
    net = models.build(name, SMALL[name], None, 5)
    torch.save(published, tmp_path / "w.pt")
    models.load_checkpoint(net, tmp_path / "w.pt")
    return net.state_dict()


def tensors_of(name):
    torch.manual_seed(1)
    return dict(models.build(name, SMALL[name], None, 5).state_dict())


@pytest.mark.parametrize("name", ["ddrnet", "pidnet"])
def test_a_trainer_around_the_network(tmp_path, name):
    ours = tensors_of(name)
    published = {f"model.{k}": v for k, v in ours.items()} | {"sem_loss.criterion.weight": torch.ones(5)}
    if name == "pidnet":
        published["model.seghead_d.conv2.weight"] = torch.ones(1, 8, 1, 1)
    found = loaded(tmp_path, name, published)
    assert all(torch.equal(v, ours[k]) for k, v in found.items())


def test_any_network_in_a_trainer_that_keeps_a_loss_beside_it(tmp_path):
    ours = tensors_of("segnet")
    published = {f"model.{k}": v for k, v in ours.items()} | {"criterion.weight": torch.ones(5)}
    found = loaded(tmp_path, "segnet", published)
    assert all(torch.equal(v, ours[k]) for k, v in found.items())


def test_the_encoders_own_classifier_is_left_out(tmp_path):
    ours = tensors_of("erfnet")
    published = {f"module.{k}": v for k, v in ours.items()} | {"module.encoder.output_conv.bias": torch.ones(5)}
    found = loaded(tmp_path, "erfnet", published)
    assert all(torch.equal(v, ours[k]) for k, v in found.items())


def test_a_shared_slope_is_spread(tmp_path):
    ours = tensors_of("enet")
    slope = "regular1_1.out_prelu.weight"
    found = loaded(tmp_path, "enet", {**ours, slope: torch.tensor([0.7])})
    assert found[slope].shape == (16,) and (found[slope] == 0.7).all()
    today = {k.replace(".out_prelu.", ".out_activation."): v for k, v in ours.items() if k != slope}
    found = loaded(tmp_path, "enet", today | {"regular1_1.out_activation.weight": torch.tensor([0.3])})
    assert (found[slope] == 0.3).all()


def test_todays_unet_also_tells_its_masks_values(tmp_path):
    ours = tensors_of("unet")
    found = loaded(tmp_path, "unet", {**ours, "mask_values": [0, 1]})
    assert all(torch.equal(v, ours[k]) for k, v in found.items())


def test_nvlabs_segformer(tmp_path):
    """Its names for the whole of a small network, keys and values in one layer."""
    ours = tensors_of("segformer")
    changes = [
        ("decode_head.linear_fuse.", "decode_head.linear_fuse.conv."),
        ("decode_head.batch_norm.", "decode_head.linear_fuse.bn."),
        ("decode_head.classifier.", "decode_head.linear_pred."),
        (".attention.self.layer_norm.", ".attn.norm."),
        (".attention.self.query.", ".attn.q."),
        (".attention.self.sr.", ".attn.sr."),
        (".attention.output.dense.", ".attn.proj."),
        (".layer_norm_", ".norm"),
        (".mlp.dense", ".mlp.fc"),
        (".layer_norm.", ".norm."),
    ]
    published = {"decode_head.conv_seg.weight": torch.ones(5, 16, 1, 1)}
    for key, value in ours.items():
        if ".self.value." in key:
            continue
        name = key
        for number in range(4):
            name = name.replace(f"segformer.encoder.layer_norm.{number}.", f"backbone.norm{number + 1}.")
            name = name.replace(f"segformer.encoder.block.{number}.", f"backbone.block{number + 1}.")
            name = name.replace(f"segformer.encoder.patch_embeddings.{number}.", f"backbone.patch_embed{number + 1}.")
            name = name.replace(f"decode_head.linear_c.{number}.", f"decode_head.linear_c{number + 1}.")
        if ".self.key." in name:
            name = name.replace(".attention.self.key.", ".attn.kv.")
            value = torch.cat([value, ours[key.replace(".key.", ".value.")]])
        for a, b in changes:
            name = name.replace(a, b)
        published[name] = value
    assert "backbone.block1.0.attn.kv.weight" in published and "backbone.norm4.bias" in published
    found = loaded(tmp_path, "segformer", published)
    assert all(torch.equal(v, ours[k]) for k, v in found.items())
