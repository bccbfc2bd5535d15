"""Which networks of others can be pruned as they are? Half of every group's channels go; proven, exported, run by OpenVINO.

    pip install torchvision segmentation-models-pytorch timm transformers        (whichever are missing is said and left out)
    python benchmarks/networks.py [NAME …]

Random weights, 128x128. Writes networks.json and networks.md beside this file; delete a row of the JSON to have it run again.

    groups       groups of channels that can go
    kept         convolutions and linear layers that are kept whole, with the most frequent reason
    MACs         of the network with half of every group's channels
    proof        the larger of the surgery proof's two differences (1e-4 is allowed)
    agreement    pixels for which the OpenVINO engine (f32) and PyTorch name the same class
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgeprune.data.transforms import IMAGENET, normalised
from edgeprune.deploy.export import Shipped, export
from edgeprune.deploy.plain import plain
from edgeprune.errors import EdgepruneError
from edgeprune.files import read_json, write_atomic, write_json
from edgeprune.models import logits_of
from edgeprune.profile.macs import count_macs
from edgeprune.prune.groups import find_groups
from edgeprune.prune.plan import make_plan
from edgeprune.prune.proof import prove
from edgeprune.prune.surgery import fold_constants
from edgeprune.runtime import openvino

OUT = Path(__file__).with_suffix(".json")
CLASSES, SIZE = 9, (128, 128)
Build = Callable[[], nn.Module]


class Features(nn.Module):
    """A backbone of timm's with one convolution behind it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.backbone = import_module("timm").create_model(name, features_only=True, pretrained=False)
        self.head = nn.Conv2d(self.backbone.feature_info.channels()[-1], CLASSES, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(x)[-1])


def torchvision(package: Any) -> Iterator[tuple[str, Build]]:
    """Its segmentation networks."""
    for name in ("fcn_resnet50", "deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"):
        made = getattr(import_module("torchvision.models.segmentation"), name)
        yield name, lambda m=made: m(weights=None, weights_backbone=None, num_classes=CLASSES)


def smp(package: Any) -> Iterator[tuple[str, Build]]:
    """All its decoders, and Unet on many encoders."""
    decoders = ("UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3", "DeepLabV3Plus", "UPerNet")
    encoders = (
        "resnet34", "resnext50_32x4d", "se_resnet50", "timm-resnest14d", "timm-res2net50_26w_4s", "timm-regnetx_002", "vgg11_bn",
        "densenet121", "dpn68", "xception", "mobilenet_v2", "mobileone_s0", "efficientnet-b0", "timm-efficientnet-b0",
    )  # fmt: skip
    pairs = [("Segformer", "mit_b0"), *((d, "resnet18") for d in decoders), *(("Unet", e) for e in encoders)]
    for decoder, encoder in pairs:
        made = getattr(package, decoder)
        yield (
            f"{decoder} {encoder}",
            lambda m=made, e=encoder: m(encoder_name=e, encoder_weights=None, classes=CLASSES),
        )


def timm(package: Any) -> Iterator[tuple[str, Build]]:
    """Backbones of unlike kinds."""
    for name in (
        "convnext_atto", "hrnet_w18_small", "ghostnet_100", "mobilenetv4_conv_small", "repvgg_a0", "fastvit_t8", "edgenext_xx_small",
        "cspdarknet53", "dla34", "tf_efficientnetv2_b0", "resnetblur18", "dm_nfnet_f0", "regnety_002", "efficientvit_b0", "ese_vovnet19b_dw",
    ):  # fmt: skip
        yield name, lambda n=name: Features(n)


def transformers(package: Any) -> Iterator[tuple[str, Build]]:
    """Its networks for semantic segmentation, small."""
    for kind in ("Segformer", "MobileNetV2", "MobileViT", "MobileViTV2"):
        made, config = (getattr(package, f"{kind}{end}") for end in ("ForSemanticSegmentation", "Config"))
        yield kind, lambda m=made, c=config: m(c(num_labels=CLASSES))
    backbone = {
        "out_features": [f"stage{n}" for n in (1, 2, 3, 4)],
        "hidden_sizes": [40, 80, 160, 320],
        "depths": [2] * 4,
    }
    more = {"num_labels": CLASSES, "use_auxiliary_head": False}
    yield (
        "UPerNet ConvNeXt",
        lambda: package.UperNetForSemanticSegmentation(
            package.UperNetConfig(backbone_config=package.ConvNextConfig(**backbone), hidden_size=64, **more)
        ),
    )
    yield (
        "BEiT",
        lambda: package.BeitForSemanticSegmentation(
            package.BeitConfig(
                image_size=SIZE[0],
                hidden_size=48,
                num_hidden_layers=4,
                num_attention_heads=4,
                intermediate_size=96,
                out_indices=[1, 2, 3, 4],
                **more,
            )
        ),
    )


PACKAGES = {
    "torchvision": torchvision,
    "segmentation_models_pytorch": smp,
    "timm": timm,
    "transformers": transformers,
}


def lively(net: nn.Module) -> nn.Module:
    """Norms that differ from each other, with statistics of noise."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.5
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    with torch.no_grad():
        for _ in range(3):
            net.train()(torch.randn(4, 3, *SIZE))
    return net.eval()


def one(build: Build, home: Path) -> dict[str, Any]:
    """The row of a network."""
    torch.manual_seed(0)
    net, example = lively(build()), torch.zeros(1, 3, *SIZE)
    graph, random = find_groups(net, example), np.random.default_rng(0)
    keep = {g.name: np.sort(random.permutation(g.size)[: (g.size + 1) // 2]) for g in graph.groups}
    plan = make_plan(net, graph, keep)
    proof = prove(net, graph, plan, example)
    small, _ = fold_constants(net, graph, plan, example)
    why = Counter(r for r in graph.unprunable.values() if r != "an output of the network")
    images = random.integers(0, 255, (4, *SIZE, 3)).astype(np.uint8)
    export(Shipped(plain(small, example), *IMAGENET), SIZE, home / "n.onnx", 20)
    with torch.no_grad():
        logits = logits_of(small(normalised(images)))
        logits = nn.functional.interpolate(logits, SIZE, mode="bilinear", align_corners=False)
    masks = openvino.compile(home / "n.onnx", home, precision="f32").predict(images)
    return {
        "groups": len(graph.groups), "kept": sum(why.values()), "why": why.most_common(1)[0][0] if why else "",
        "gmacs": count_macs(net, SIZE) / 1e9, "macs": count_macs(small, SIZE) / count_macs(net, SIZE),
        "proof": max(proof.silenced, proof.folded), "agreement": float((masks == logits.argmax(1).numpy()).mean()),
    }  # fmt: skip


def table(rows: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        "| network | groups | kept (most often) | GMACs | MACs | proof | agreement |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, r in rows.items():
        if "failed" in r:
            lines.append(f"| {name} | {r['failed']} | | | | | |")
            continue
        kept = f"{r['kept']} ({r['why']})" if r["kept"] else "0"
        lines.append(
            f"| {name} | {r['groups']} | {kept} | {r['gmacs']:.3f} | {r['macs']:.2f}x | {r['proof']:.0e} | {r['agreement']:.4f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="only networks whose name holds one of these")
    args = parser.parse_args()
    rows = read_json(OUT) if OUT.exists() else {}
    for package, networks in PACKAGES.items():
        try:
            found = import_module(package)
        except ImportError as error:
            print(f"{package}: left out ({error})", file=sys.stderr)
            continue
        for name, build in networks(found):
            key = f"{package}: {name}"
            if key in rows or (args.names and not any(n in key for n in args.names)):
                continue
            with tempfile.TemporaryDirectory() as folder:
                try:
                    rows[key] = one(build, Path(folder)) | {"version": version(package.replace("_", "-"))}
                except EdgepruneError as error:
                    rows[key] = {"failed": str(error)[:200]}
            print(key, rows[key], flush=True)
            write_json(OUT, rows)
            write_atomic(OUT.with_suffix(".md"), table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
