"""The recipe: a whole experiment in one YAML file. Unknown keys are refused; values are checked across keys."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from edgeprune import documents
from edgeprune.errors import RecipeError
from edgeprune.shipped import shipped

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0)]
Size = tuple[Count, Count]
DRAWN = ("streets", "objects", "street_boxes")  # data sets that are drawn at data.size


class Section(BaseModel):
    """A section of a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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
        default=None, description='your own network: "package.module:function", called with classes and args'
    )
    checkpoint: str | None = Field(
        default=None, description="trained weights: .safetensors, or .pt/.pth (read without running code)"
    )
    checkpoint_head: bool = Field(
        default=True, description="false: leave out weights whose shape differs (another number of classes)"
    )

    @model_validator(mode="after")
    def _one(self) -> Model:
        if (self.network is None) == (self.factory is None):
            raise ValueError("give model.network (one of ours) or model.factory (your own), exactly one of them")
        return self


class Evaluate(Section):
    """A protocol for PyTorch's scores; the engine is always judged at data.size."""

    mode: Literal["whole", "slide"] = Field(
        default="whole", description="the whole image at once, or windows over it whose logits are averaged"
    )
    native: bool = Field(
        default=False, description="judge labels at their own size: logits are resized to it before argmax"
    )
    short_side: Count | None = Field(
        default=None,
        description="native: the network sees the image with this short side, its shape kept; null: whole at data.size, "
        "slide at the image's own size",
    )
    crop: Size | None = Field(default=None, description="slide: [height, width] of the window; null: data.size")
    stride: Size | None = Field(default=None, description="slide: [down, across]; null: two thirds of the window")
    flip: bool = Field(default=False, description="also see the image mirrored, and average")
    scales: Annotated[list[Positive], Field(min_length=1)] = Field(
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
    train_images: Count | None = Field(default=None, description="use only so many training images, evenly spread")
    val_images: Count | None = Field(default=None, description="use only so many validation images, evenly spread")
    workers: Annotated[int, Field(ge=0)] = Field(
        default=0, description="processes that load data; 0 loads in the main one"
    )
    train_short_side: Count | None = Field(
        default=None,
        description="training views are cut from images with this short side, their shape kept; null: from data.size",
    )
    evaluate: Evaluate | None = Field(
        default=None,
        description="how the dense and the pruned network are judged in PyTorch; null: as the engine is, at data.size",
    )

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


class Augment(Section):
    """Joint augmentation of image and label."""

    scale: tuple[Positive, Positive] = Field(default=(0.5, 2.0), description="random scale, least and most")
    crop: Size | None = Field(default=None, description="[height, width] of the random crop; null: data.size")
    pad: Annotated[int, Field(ge=0)] = Field(
        default=0, description="pixels by which the crop may reach beyond the image (CIFAR: 4)"
    )
    flip: Share = Field(default=0.5, description="probability of a left-right flip")
    color: Share = Field(default=0.3, description="strength of brightness, contrast and saturation changes")


class Train(Section):
    """A training schedule."""

    epochs: Positive | None = Field(default=None, description="length in epochs")
    steps: Count | None = Field(default=None, description="length in optimiser steps; wins over epochs")
    batch: Count = Field(default=8, description="images a step and process")
    accumulate: Count = Field(default=1, description="batches whose gradients are summed for one step")
    optimizer: Literal["sgd", "adamw"] = Field(default="sgd", description="SGD with Nesterov momentum, or AdamW")
    lr: Positive = Field(default=0.01, description="the peak learning rate")
    momentum: Share = Field(default=0.9, description="of SGD")
    weight_decay: NotNegative = Field(default=5e-4, description="not applied to norms and biases")
    schedule: Literal["poly", "cosine", "constant"] = Field(default="poly", description="how the learning rate falls")
    power: Positive = Field(default=0.9, description="of poly")
    warmup_steps: Annotated[int, Field(ge=0)] = Field(default=0, description="steps of linear warm-up")
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
    val_every: Annotated[int, Field(ge=0)] = Field(
        default=0, description="epochs between validations; 0: only at the end"
    )
    checkpoint_every: Count = Field(
        default=100, description="steps between checkpoints (a killed run goes on from the last)"
    )

    @model_validator(mode="after")
    def _length(self) -> Train:
        if self.epochs is None and self.steps is None:
            raise ValueError("give the length as epochs or steps")
        return self


class Distill(Section):
    """Distillation from the dense network."""

    logits: NotNegative = Field(
        default=1.0, description="weight of the KL divergence of the classes (detection: and of the boxes' distance)"
    )
    temperature: Positive = Field(default=1.0, description="of the softened logits")
    features: NotNegative = Field(
        default=0.0, description="weight of the class-wise features' cosine distance (segmentation)"
    )


class Finetune(Train):
    """Recovery after pruning."""

    recalibrate_batches: Annotated[int, Field(ge=0)] = Field(
        default=20, description="batches that set the norms' statistics anew"
    )
    distill: Distill | None = Field(default=None, description="teach with the dense network; null: labels only")


class Round(Section):
    """An earlier, gentler cut."""

    keep: Annotated[str, Field(pattern=r"^\s*(0?\.[0-9]+|1(\.0+)?)\s*x\s*$")] = Field(
        description='the budget of this cut as a share of the dense network, such as "0.7x", in the unit of `budget`'
    )
    args: dict[str, Any] | None = Field(
        default=None, description="the criterion's switches for this cut; null: those of prune.args"
    )
    sparsity: Train | None = Field(
        default=None, description="training that the criterion takes part in before this cut; null: prune.sparsity"
    )
    finetune: Train | None = Field(default=None, description="training after this cut; null: none")

    @property
    def share(self) -> float:
        """`keep` as a number."""
        return float(self.keep.strip().rstrip("x"))


class Prune(Section):
    """Which channels go."""

    method: str = Field(
        description="the criterion: sirfp, cap, mtp, acosp, dcfp, fpgm, fpgm_a, ns, bn_scale, taylor, halp, group_norm, "
        "l1, l2 or random"
    )
    args: dict[str, Any] = Field(default={}, description="the criterion's switches")
    allocate: Literal["auto", "global", "uniform", "knapsack"] = Field(
        default="auto",
        description="global: all scores compete; uniform: the same share of each layer; knapsack: the most worth under "
        "the budget; auto: knapsack for a latency budget, else global",
    )
    worth: Literal["sensitivity", "score", "sum"] = Field(
        default="sensitivity",
        description="what the knapsack adds up: the measured loss when a layer alone is cut, its share of scores, or the "
        "scores themselves (HALP)",
    )
    sensitivity_images: Count = Field(default=8, description="training images that the sensitivity is measured on")
    recovery_steps: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="steps of distillation after which each layer's measured loss counts; 0: at once; null: up to 30, all "
        "layers together at most half of the fine-tuning",
    )
    contest_steps: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="steps that ways to share the budget out compete for; 0: no contest; null: up to 150, all of them "
        "together at most as long as the fine-tuning",
    )
    remove_blocks: Literal["never", "needed", "free"] = Field(
        default="needed",
        description="knapsack: whole residual branches go where no widths meet the budget (needed), or wherever their "
        "measured loss is the cheapest (free)",
    )
    min_keep: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.02, description="the share of each layer that always stays"
    )
    never: list[str] = Field(default=[], description='module names (globs) that are never pruned, such as "head.*"')
    batches: Count = Field(default=16, description="training batches that the criterion watches")
    step: Count | None = Field(default=None, description="widths are multiples of it; null: the target's channel_step")
    sparsity: Train | None = Field(
        default=None,
        description="training that the criterion takes part in before it scores: acosp, cap, dcfp, mtp and ns need it, "
        "sirfp may have it",
    )
    rounds: list[Round] = Field(
        default=[], description="earlier, gentler cuts, each with its training, before the last"
    )


class Budget(Section):
    """What the pruned network may cost: exactly one of these. "0.4x" is a share of the dense network."""

    macs: str | float | None = Field(default=None, description="multiply-adds of one image (fvcore's count)")
    params: str | float | None = Field(default=None, description="parameters")
    channels: str | float | None = Field(default=None, description="kept channels of the prunable groups")
    latency: str | None = Field(default=None, description="a share of the dense engine's latency")
    latency_ms: Positive | None = Field(default=None, description="milliseconds an image on the target")
    fps: Positive | None = Field(default=None, description="images a second on the target")

    @field_validator("macs", "params", "channels", "latency")
    @classmethod
    def _amount(cls, value: Any) -> Any:
        share = re.fullmatch(r"\s*([0-9.]+)\s*x\s*", value) if isinstance(value, str) else None
        if isinstance(value, str) and share is None:
            raise ValueError(f'write a number or a share of the dense network such as "0.4x", not {value!r}')
        if share is not None and not 0 < float(share[1]) <= 1:
            raise ValueError(f"a share lies between 0x and 1x, not {value!r}")
        if isinstance(value, (int, float)) and not value > 0:
            raise ValueError(f"must be more than 0, not {value!r}")
        return value

    @model_validator(mode="after")
    def _one(self) -> Budget:
        given = [k for k in Budget.model_fields if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of {', '.join(Budget.model_fields)}, not {' and '.join(given) or 'none'}"
            )
        return self

    @property
    def kind(self) -> str:
        """Which of them it is."""
        return next(k for k in Budget.model_fields if getattr(self, k) is not None)

    @property
    def is_latency(self) -> bool:
        """Is it one that only the device can tell?"""
        return self.kind in ("latency", "latency_ms", "fps")

    def limit(self, whole: float) -> float:
        """The limit in the budget's own unit, given the dense network's cost."""
        value = getattr(self, self.kind)
        return whole * float(value.strip().rstrip("x")) if isinstance(value, str) else float(value)


Points = Annotated[float, Field(ge=0, le=100)]
TASK_GATES = {  # the others are for all tasks
    "segmentation": ("miou_drop", "boundary_drop", "pixel_agreement", "min_miou"),
    "classification": ("top1_drop", "top1_agreement", "min_top1"),
    "detection": ("map_drop", "box_agreement", "min_map"),
}


class Gates(Section):
    """What must hold before an engine ships. Drops are in points (0 to 100) and two-sided; null: not checked."""

    miou_drop: NotNegative | None = Field(
        default=1.0, description="segmentation, engine against the pruned network in PyTorch: mIoU"
    )
    boundary_drop: NotNegative | None = Field(default=2.0, description="segmentation, the same: boundary IoU")
    pixel_agreement: Share | None = Field(
        default=0.98, description="segmentation: the least share of pixels with PyTorch's class"
    )
    min_miou: Points | None = Field(default=None, description="segmentation: the engine's least mIoU")
    top1_drop: NotNegative | None = Field(
        default=0.5, description="classification, engine against the pruned network in PyTorch: top-1"
    )
    top1_agreement: Share | None = Field(
        default=0.98, description="classification: the least share of images with PyTorch's class"
    )
    min_top1: Points | None = Field(default=None, description="classification: the engine's least top-1")
    map_drop: NotNegative | None = Field(
        default=1.0, description="detection, engine against the pruned network in PyTorch: mAP at an overlap of 0.5"
    )
    box_agreement: Share | None = Field(
        default=0.95, description="detection: the least share of boxes that engine and PyTorch have in common"
    )
    min_map: Points | None = Field(default=None, description="detection: the engine's least mAP at 0.5")
    class_drop: NotNegative | None = Field(
        default=3.0, description="the worst class, engine against the pruned network in PyTorch: IoU, accuracy or AP"
    )
    pruning_drop: NotNegative | None = Field(
        default=None, description="pruned against dense: the most mIoU (top-1, mAP) that may be lost"
    )
    min_speedup: Positive | None = Field(
        default=None, description="the least speed-up (lower end of its 95 % interval)"
    )

    def of(self, task: str) -> dict[str, float | None]:
        """Gate -> limit of those that a task has."""
        others = {gate for name, gates in TASK_GATES.items() if name != task for gate in gates}
        return {gate: limit for gate, limit in self.model_dump(mode="json").items() if gate not in others}


class Deploy(Section):
    """The engine."""

    precision: Literal["auto", "f32", "f16", "bf16", "int8", "fastest"] = Field(
        default="auto",
        description="auto: the target's own; fastest: the one of the target's whose engine passes the gates and is the "
        "fastest by measurement (the target's own where the device is not at hand)",
    )
    route: Literal["onnx", "torch_tensorrt"] = Field(
        default="onnx",
        description="how TensorRT on this machine gets the network: by ONNX, or as an engine that torch-tensorrt has built of "
        "PyTorch's graph (not run on hardware yet)",
    )
    calibration_images: Count = Field(default=64, description="training images that INT8 is calibrated on")
    opset: Annotated[int, Field(ge=18)] = Field(default=20, description="of the ONNX graph")
    head: Literal["auto", "argmax", "chain", "coarse"] = Field(
        default="auto",
        description="segmentation, how logits become classes; auto: the fastest on the device whose masks pass the gates, argmax where the "
        "device is not at hand",
    )
    logits: bool = Field(default=False, description="the engine gives float32 logits as a second output")
    simplify: bool = Field(default=True, description="run onnxsim (with a numeric check)")
    latency_runs: Annotated[int, Field(ge=5)] = Field(default=50, description="timed pairs dense/pruned")
    parity_images: Count = Field(default=16, description="images with PyTorch's answers that travel in the bundle")
    gates: Gates = Gates()

    @property
    def planned(self) -> str:
        """The precision that all before the engine is planned at; "auto" is the target's own."""
        return "auto" if self.precision == "fastest" else self.precision


class Recipe(Section):
    """A whole experiment."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] = Field(description="names the run's folder")
    title: str = Field(default="", description="one line for people")
    task: Literal["segmentation", "classification", "detection"] = Field(
        default="segmentation", description="what the network does; data, network, loss and gates must be for it"
    )
    seed: Annotated[int, Field(ge=0)] = Field(default=0, description="of everything random")
    threads: Count | None = Field(default=None, description="PyTorch's threads; null: as many as there are cores")
    model: Model
    data: Data
    train: Train | None = Field(
        default=None, description="training of the dense network; null where there is a checkpoint"
    )
    prune: Prune
    budget: Budget
    finetune: Finetune
    deploy: Deploy = Deploy()

    @model_validator(mode="after")
    def _trained(self) -> Recipe:
        if self.train is None and self.model.checkpoint is None:
            raise ValueError("model.checkpoint and train are both missing: give trained weights or a training schedule")
        shares = [r.share for r in self.prune.rounds]
        if shares != sorted(shares, reverse=True):
            raise ValueError(
                f"prune.rounds: each cut keeps less than the one before, not {', '.join(map(str, shares))}"
            )
        if shares and self.budget.is_latency:
            raise ValueError(
                "prune.rounds: their cuts are counted, not measured; use budget.macs, params or channels with them, or cut "
                "once: --set prune.rounds=[]"
            )
        return self


def load_recipe(name: str, settings: list[str] | None = None) -> Recipe:
    """The recipe of that shipped name or path, with `a.b=value` settings applied.

    Raises:
        RecipeError: one line with file, line, key and what would be right.
    """
    path = documents.find(name, shipped("recipes"), "recipe")
    content, lines = documents.read(path)
    set_keys = documents.override(content, settings or [])
    set_budgets = {key[1] for key in set_keys if key[0] == "budget" and len(key) == 2}
    if set_budgets:  # exactly one budget counts, so one that is set replaces the file's
        content["budget"] = {k: v for k, v in content["budget"].items() if k in set_budgets}

    def where(key: documents.Key) -> str:
        for end in range(len(key), 0, -1):
            setting = next((s for k, s in set_keys.items() if k[:end] == key[:end] and len(k) >= len(key)), None)
            if setting and (key[:end] not in lines or key[:end] in set_keys):
                return f"--set {setting}"
            if key[:end] in set_keys:
                return f"--set {set_keys[key[:end]]}"
            if key[:end] in lines:
                return f"{path}:{lines[key[:end]]}"
        return str(path)

    return documents.validated(Recipe, content, where)


def check_files(recipe: Recipe) -> None:
    """Refuse a recipe whose files are not there, before anything long begins.

    Raises:
        RecipeError: names the key and the path.
    """
    for key, path in (("data.root", recipe.data.root), ("model.checkpoint", recipe.model.checkpoint)):
        if path is not None and not Path(path).expanduser().exists():
            raise RecipeError(f"{key}: {path} does not exist")
