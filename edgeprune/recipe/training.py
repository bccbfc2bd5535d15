"""`train` and `finetune`: schedules, losses, augmentation, distillation."""

from __future__ import annotations

import shlex
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from edgeprune.recipe.base import Count, NotNegative, Positive, Section, Share, Size, Whole


class Loss(Section):
    """What is minimised."""

    kind: Literal["ce", "ohem", "gsrl", "focal"] = Field(
        default="ce",
        description="cross entropy (segmentation, classification); its mean over the hard pixels only (OHEM), or weighed by "
        "rarity and doubt (DCFP's GSRL), for segmentation; focal and smooth L1 for detection",
    )
    class_weights: Literal["none", "median", "enet", "inverse_sqrt"] = Field(
        default="none", description="weights from the classes' frequencies in the training labels"
    )
    ohem_threshold: Share = Field(
        default=0.7, description="pixels whose true class has less than this probability are hard"
    )
    ohem_min_kept: Share = Field(default=0.0625, description="the least share of pixels that counts as hard")
    gsrl_class: Literal["drawn", "rarest"] = Field(
        default="drawn",
        description="the class that pixel weights refer to: the one that resample drew the image for (without resample: one of "
        "the image's at random), or its rarest",
    )
    aux_weight: NotNegative = Field(default=0.4, description="weight of the auxiliary head's loss")
    focal_gamma: NotNegative = Field(default=2.0, description="how much focal loss leaves out what is easy")
    focal_alpha: Share = Field(default=0.25, description="focal loss's weight of what is there against what is not")
    box_weight: NotNegative = Field(default=1.0, description="weight of the boxes' smooth L1 beside the focal loss")


Scale = Annotated[float, Field(ge=0.05, le=20)]


def _rising(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError(f"the least comes first: [{value[1]}, {value[0]}], not {list(value)}")
    return value


class Augment(Section):
    """Joint augmentation of image and label."""

    scale: Annotated[tuple[Scale, Scale], Field(strict=False), AfterValidator(_rising)] = Field(
        default=(0.5, 2.0), description="random scale, least and most"
    )
    crop: Size | None = Field(default=None, description="[height, width] of the random crop; null: data.size")
    pad: Annotated[int, Field(ge=0, le=1024)] = Field(
        default=0, description="pixels by which the crop may reach beyond the image (CIFAR: 4)"
    )
    flip: Share = Field(default=0.5, description="probability of a left-right flip")
    color: Share = Field(default=0.3, description="strength of brightness, contrast and saturation changes")


class Train(Section):
    """A training schedule."""

    epochs: Annotated[float, Field(gt=0, le=1e6)] | None = Field(default=None, description="length in epochs")
    steps: Count | None = Field(default=None, description="length in optimiser steps; wins over epochs")
    batch: Count = Field(default=8, description="images a step and process")
    accumulate: Count = Field(default=1, description="batches whose gradients are summed for one step")
    optimizer: Literal["sgd", "adamw"] = Field(default="sgd", description="SGD with momentum, or AdamW")
    lr: Positive = Field(default=0.01, description="the peak learning rate")
    momentum: Share = Field(default=0.9, description="of SGD")
    nesterov: bool = Field(
        default=True, description="SGD's momentum is Nesterov's; false: plain, as torch.optim.SGD has it"
    )
    weight_decay: NotNegative = Field(default=5e-4, description="not applied to norms and biases")
    schedule: Literal["poly", "cosine", "constant"] = Field(default="poly", description="how the learning rate falls")
    power: Positive = Field(default=0.9, description="of poly")
    warmup_steps: Whole = Field(default=0, description="steps of linear warm-up, at most half of all")
    loss: Loss = Loss()
    autocast: Literal["none", "bf16", "fp16"] = Field(default="none", description="mixed precision of training")
    channels_last: bool = Field(
        default=True,
        description="NHWC layout, which convolutions like; false: NCHW, which a CPU also takes where strided 1x1 convolutions "
        "are too narrow for oneDNN in NHWC",
    )
    checkpoint_blocks: bool = Field(
        default=False, description="compute blocks' insides again for the gradient: less memory, a third more time"
    )
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None, description="decay of averaged weights, such as 0.999"
    )
    augment: Augment = Augment()
    resample: Literal["none", "class_balanced"] = Field(
        default="none",
        description="none: each image once an epoch; class_balanced: each class equally often, crops around it",
    )
    clip_grad: Positive | None = Field(default=None, description="the gradients' greatest norm")
    val_every: Whole = Field(default=0, description="epochs between validations; 0: only at the end")
    checkpoint_every: Count = Field(
        default=100, description="steps between checkpoints (a killed run goes on from the last)"
    )

    @model_validator(mode="after")
    def _length(self) -> Train:
        if self.epochs is None and self.steps is None and not self.elsewhere:
            raise ValueError("give the length as epochs or steps")
        return self

    @property
    def elsewhere(self) -> bool:
        """Does something else than our own loop train?"""
        return False


def _naming(*names: str) -> AfterValidator:
    """A command in which each of these stands as `{name}`."""

    def check(command: str) -> str:
        if missing := [name for name in names if f"{{{name}}}" not in command]:
            raise ValueError(
                f"the command has to be told where: write {' and '.join(f'{{{n}}}' for n in missing)} in it"
            )
        if other := [n for n in ("pruned", "tuned", "trained") if n not in names and f"{{{n}}}" in command]:
            raise ValueError(
                f"{{{other[0]}}} is not known here; {' and '.join(f'{{{n}}}' for n in names)} can be written"
            )
        shlex.split(command)
        return command

    return AfterValidator(check)


class Dense(Train):
    """The dense network's training."""

    command: Annotated[str, _naming("trained")] | None = Field(
        default=None,
        description="your own training instead of ours; it leaves the weights in the file {trained} (safetensors, or as "
        "torch.save has them)",
    )

    @property
    def elsewhere(self) -> bool:
        return self.command is not None


class Distill(Section):
    """Distillation from the dense network."""

    logits: NotNegative = Field(
        default=1.0, description="weight of the KL divergence of the classes (detection: and of the boxes' distance)"
    )
    temperature: Positive = Field(default=1.0, description="of the softened logits")
    features: NotNegative = Field(
        default=0.0,
        description="weight of the squared difference of the class-wise features' cosine similarities (segmentation)",
    )


class Finetune(Train):
    """Recovery after pruning."""

    command: Annotated[str, _naming("pruned", "tuned")] | None = Field(
        default=None,
        description="your own training instead of ours: {pruned} is the folder of the cut network, which `edgeprune.load` reads, "
        "and {tuned} the file where the tuned weights are wanted (safetensors, or as torch.save has them)",
    )
    checkpoint: str | None = Field(default=None, description="weights of the cut network that you have tuned already")

    recalibrate_batches: Whole = Field(
        default=20,
        description="batches that set the statistics of the norms behind the cut anew; frozen ones stay",
    )
    distill: Distill | None = Field(default=None, description="teach with the dense network; null: labels only")
    weights: Literal["dense", "2of4"] = Field(
        default="dense",
        description="2of4: of each four weights over the input channels the smaller two are set to zero and stay it, for the sparse "
        "tensor cores of GPUs from compute capability 8.0 on (no gain elsewhere; not run on hardware yet)",
    )

    @property
    def elsewhere(self) -> bool:
        return self.command is not None or self.checkpoint is not None

    @model_validator(mode="after")
    def _one_way(self) -> Finetune:
        if self.command is not None and self.checkpoint is not None:
            raise ValueError("command and checkpoint are two ways to the tuned weights; give one")
        if self.elsewhere and self.weights == "2of4":
            raise ValueError("weights: 2of4 is kept by our own training only; leave command and checkpoint out")
        return self
