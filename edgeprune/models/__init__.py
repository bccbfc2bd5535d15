"""The networks, by the name that a recipe uses, a table a task. A user's own is built from its import path."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from torch import nn

from edgeprune.errors import ModelError, first_line
from edgeprune.models import (
    bisenetv2,
    classifier,
    ddrnet,
    deeplabv3,
    enet,
    erfnet,
    fastscnn,
    icnet,
    pidnet,
    pspnet,
    segformer,
    segnet,
    ssd,
    streetnet,
    unet,
)
from edgeprune.models.attributes import check_attributes
from edgeprune.models.checkpoint import Loaded, load_backbone, load_checkpoint
from edgeprune.models.outputs import Choice, carry, logits_of

__all__ = [
    "Loaded",
    "NETWORKS",
    "SEGMENTATION",
    "TASK_NETWORKS",
    "build",
    "load_backbone",
    "load_checkpoint",
    "logits_of",
]

Build = Callable[..., nn.Module]
SEGMENTATION: dict[str, Build] = {
    "bisenetv2": bisenetv2.BiSeNetV2,
    "ddrnet": ddrnet.DDRNet,
    "deeplabv3": deeplabv3.DeepLabV3,
    "deeplabv3plus": deeplabv3.DeepLabV3Plus,
    "enet": enet.ENet,
    "erfnet": erfnet.ERFNet,
    "fastscnn": fastscnn.FastSCNN,
    "icnet": icnet.ICNet,
    "pidnet": pidnet.PIDNet,
    "pspnet": pspnet.PSPNet,
    "segformer": segformer.SegFormer,
    "segnet": segnet.SegNet,
    "streetnet": streetnet.StreetNet,
    "unet": unet.UNet,
}
CLASSIFICATION: dict[str, Build] = {"resnet": classifier.ResNetClassifier}
DETECTION: dict[str, Build] = {"ssd": ssd.SSD}
TASK_NETWORKS = {"segmentation": SEGMENTATION, "classification": CLASSIFICATION, "detection": DETECTION}
NETWORKS: dict[str, Build] = {**SEGMENTATION, **CLASSIFICATION, **DETECTION}


def build(
    network: str | None, args: dict[str, Any], factory: str | None, classes: int, output: Sequence[str] | None = None
) -> nn.Module:
    """Build a network of `NETWORKS`, or call the user's `factory` ("package.module:function").

    Args:
        output: which of its outputs ships, in evaluation and in training (`outputs.Choice`); None: its form alone tells.

    Raises:
        ModelError: unknown network, factory that cannot be imported, arguments that it does not take, an attribute that hides a
            method of `nn.Module`.
    """
    if factory:
        made = _from_factory(factory, classes, args)
        check_attributes(made)
        return carry(made, Choice(*output) if output else None)
    if network not in NETWORKS:
        raise ModelError(f"model.network: {network!r} is not one of {', '.join(NETWORKS)}")
    try:
        made = NETWORKS[network](classes=classes, **args)
    except (TypeError, KeyError, ValueError) as error:
        raise ModelError(f"model.args: {network} does not take them ({error})") from error
    return carry(made, Choice(*output) if output else None)


def on_path() -> None:
    """The working directory is the last place where a factory's module is looked for; an installed command does not look there."""
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())


def _from_factory(factory: str, classes: int, args: dict[str, Any]) -> nn.Module:
    on_path()
    module, _, function = factory.partition(":")
    try:
        call = getattr(importlib.import_module(module), function)
    except Exception as error:  # whatever a user's module does when it is imported
        raise ModelError(
            f"model.factory: {factory!r} cannot be imported ({type(error).__name__}: {first_line(error)}); write package.module:function, of a "
            "module that is installed or lies in the working directory"
        ) from error
    taken = {_count_of_classes(call): classes, **args}
    try:
        with suppress(ValueError):  # one that tells no signature is simply called
            inspect.signature(call).bind(**taken)
    except TypeError as error:
        raise ModelError(f"model.args: {factory} does not take them ({error})") from error
    try:
        made = call(**taken)
    except Exception as error:
        raise ModelError(f"model.factory: {factory} failed: {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(made, nn.Module):
        raise ModelError(f"model.factory: {factory} gave {type(made).__name__}, not a torch.nn.Module")
    return made


def _count_of_classes(call: Callable[..., Any]) -> str:
    """What the factory calls it: `classes` (ours, segmentation_models_pytorch's) or `num_classes` (torchvision's, timm's)."""
    try:
        names = inspect.signature(call).parameters
    except (TypeError, ValueError):
        return "classes"
    return "num_classes" if "num_classes" in names and "classes" not in names else "classes"
