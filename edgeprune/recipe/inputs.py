"""`model` and `data`: what a run begins with."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from edgeprune.recipe.base import Count, Section, Side, Size

Numbers = Annotated[tuple[float, float, float], Field(strict=False)]  # of red, green and blue; YAML gives lists


def _colours(value: Numbers) -> Numbers:
    if not all(0 <= v <= 1 for v in value):
        raise ValueError("three numbers of images whose values go from 0 to 1; divide those of 0 to 255 by 255")
    return value


Colours = Annotated[Numbers, AfterValidator(_colours)]
DRAWN = ("streets", "objects", "street_boxes")  # data sets that are drawn at data.size


def _path(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is not None and not (isinstance(value, str) and value):
        raise ValueError(f"a key or an index such as -1, in quotes where YAML reads something else: '\"{value}\"'")
    return value


class Model(Section):
    """The network: one of ours by name, or your own by its import path."""

    network: str | None = Field(
        default=None,
        description="bisenetv2, ddrnet, deeplabv3, deeplabv3plus, enet, erfnet, fastscnn, icnet, pidnet, pspnet, "
        "segformer, segnet, streetnet or unet; classification: resnet; detection: ssd",
    )
    args: dict[str, Any] = Field(
        default={}, description="what the network's constructor takes (backbone, output_stride, …)"
    )
    factory: str | None = Field(
        default=None,
        description='your own network: "package.module:function", called with classes (or num_classes) and args',
    )
    checkpoint: str | None = Field(
        default=None, description="trained weights: .safetensors, or .pt/.pth (read without running code)"
    )
    checkpoint_key: str | None = Field(
        default=None,
        description="where in that file the weights lie, such as state_dict or model_ema; null: wherever they fit, and the averaged "
        "ones (EMA) where there are two sets",
    )
    checkpoint_head: bool = Field(
        default=True,
        description="false: leave out classifiers of another number of classes, which `train` then teaches",
    )
    output: Annotated[str | None, BeforeValidator(_path)] = Field(
        default=None,
        description="which of several outputs ships: a key of the dict or an index of the list that the network gives, such as -1, with "
        "dots for what lies in each other (heads.final); null: the one that has as many channels as there are classes",
    )
    backbone_checkpoint: str | None = Field(
        default=None,
        description="trained weights of the backbone alone, from which `train` starts (torchvision's of ImageNet fit our ResNets)",
    )

    @model_validator(mode="after")
    def _one(self) -> Model:
        if (self.network is None) == (self.factory is None):
            raise ValueError("give model.network (one of ours) or model.factory (your own), exactly one of them")
        if self.checkpoint_key is not None and not (self.checkpoint or self.backbone_checkpoint):
            raise ValueError("model.checkpoint_key says where in a file the weights lie: give model.checkpoint too")
        return self


class Evaluate(Section):
    """A protocol for PyTorch's scores; the engine is always judged at data.size."""

    mode: Literal["whole", "slide"] = Field(
        default="whole", description="the whole image at once, or windows over it whose logits are averaged"
    )
    native: bool = Field(
        default=False, description="judge labels at their own size: logits are resized to it before argmax"
    )
    short_side: Side | None = Field(
        default=None,
        description="native: the network sees the image with this short side, its shape kept; null: whole at data.size, "
        "slide at the image's own size",
    )
    crop: Size | None = Field(default=None, description="slide: [height, width] of the window; null: data.size")
    stride: Size | None = Field(default=None, description="slide: [down, across]; null: two thirds of the window")
    flip: bool = Field(default=False, description="also see the image mirrored, and average")
    scales: Annotated[list[Annotated[float, Field(gt=0, le=20)]], Field(min_length=1)] = Field(
        default=[1.0], description="see the image at each of these scales, and average"
    )
    average: Literal["probabilities", "logits"] = Field(
        default="probabilities", description="what is averaged over flips and scales (mmsegmentation; DCFP: logits)"
    )

    @model_validator(mode="after")
    def _fits(self) -> Evaluate:
        if self.mode == "whole" and (self.crop or self.stride):
            raise ValueError("crop and stride belong to mode: slide")
        if self.short_side and not self.native:
            raise ValueError("short_side belongs to native: true; else images are resized to data.size")
        if self.crop and self.stride and any(s > c for s, c in zip(self.stride, self.crop, strict=True)):
            raise ValueError(
                f"stride {list(self.stride)} is longer than the window {list(self.crop)}: gaps would be left"
            )
        return self


def _spread(std: Numbers) -> Numbers:
    if 0 in std:
        raise ValueError("it divides; no part of it may be 0")
    if not all(0 < v < math.inf for v in std):
        raise ValueError("three numbers above 0, of images whose values go from 0 to 1")
    return std


class Data(Section):
    """The images and labels."""

    name: Literal[
        "streets", "camvid", "cityscapes", "voc2012", "ade20k", "cocostuff10k", "pascal_context", "folder",
        "objects", "cifar10", "class_folders", "street_boxes", "voc_detection", "coco_detection",
    ] = Field(description="the kind of data set")  # fmt: skip
    root: str | None = Field(
        default=None, description="its folder; streets, objects and street_boxes are drawn and need none"
    )
    size: Size = Field(description="[height, width] that images are resized to; the engine's input size")
    args: dict[str, Any] = Field(
        default={},
        description="what the data set takes (folder: classes, ignore; streets: train, val; voc2012, voc_detection: "
        "train_list, val_list; pascal_context: background)",
    )
    mean: Colours = Field(
        default=(0.485, 0.456, 0.406), description="taken off red, green and blue (0 to 1) before the network sees them"
    )
    std: Annotated[Numbers, AfterValidator(_spread)] = Field(
        default=(0.229, 0.224, 0.225), description="and what they are then divided by; the defaults are ImageNet's"
    )
    train_images: Count | None = Field(default=None, description="use only so many training images, evenly spread")
    val_images: Count | None = Field(default=None, description="use only so many validation images, evenly spread")
    workers: Annotated[int, Field(ge=0, le=256)] = Field(
        default=0, description="processes that load data; 0 loads in the main one"
    )
    train_short_side: Side | None = Field(
        default=None,
        description="training views are cut from images with this short side, their shape kept; null: from data.size",
    )
    evaluate: Evaluate | None = Field(
        default=None,
        description="how the dense and the pruned network are judged in PyTorch; null: as the engine is, at data.size",
    )

    def warnings(self) -> list[str]:
        """What is allowed and yet often a slip, a line each."""
        if max(self.std) <= 1:
            return []
        most = 1 / max(self.std)
        return [
            f"data.std: {list(self.std)} is above 1, but images go from 0 to 1, so the network sees at most {most:.2g} of a colour; "
            "numbers of 0 to 255 have to be divided by 255"
        ]

    @model_validator(mode="after")
    def _root(self) -> Data:
        drawn = f"{self.name} are drawn at data.size; they have no"
        if self.name in DRAWN and self.evaluate is not None and self.evaluate.native:
            raise ValueError(f"data.evaluate.native: {drawn} size of their own")
        if self.name in DRAWN and self.train_short_side is not None:
            raise ValueError(f"data.train_short_side: {drawn} shape of their own")
        if self.name not in DRAWN and self.root is None:
            raise ValueError(
                f"data.root is missing: the folder of {self.name}, for example --set data.root=/data/{self.name}"
            )
        return self
