"""`deploy`: the engine and what must hold before it ships."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edgeprune.recipe.base import Count, NotNegative, Positive, Section, Share

HIGHEST_OPSET = 23  # that torch.onnx exports
Points = Annotated[float, Field(ge=0, le=100)]
TASK_GATES = {  # the others are for all tasks
    "segmentation": ("miou_drop", "boundary_drop", "pixel_agreement", "min_miou"),
    "classification": ("top1_drop", "top1_agreement", "min_top1"),
    "detection": ("map_drop", "box_agreement", "min_map"),
}


class Gates(Section):
    """What must hold before an engine ships. Drops are in points (0 to 100) and two-sided (but `pruning_*`: a gain passes); null: not checked.

    An engine that equals the pruned network says nothing about what pruning has ruined, so `pruning_drop` holds by default.
    Its 5 points are more than what published cuts of half the cost lose (most shipped recipes: 2 to 4.5) and what another seed
    or a few validation images do by themselves (about 2), and far less than a fine-tuning that failed. Recipes of methods that
    lose more by their papers say so. Single classes are another matter: at 0.4x our default's worst class loses 9 points while the
    mean loses 1.5, so `pruning_class_drop` is left to those for whom a class counts; the report's headline names classes that are lost.
    """

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
        default=5.0, description="pruned against dense: the most mIoU (top-1, mAP) that may be lost"
    )
    pruning_class_drop: NotNegative | None = Field(
        default=None, description="pruned against dense: the most IoU (accuracy, AP) that any class may lose"
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
    opset: Annotated[int, Field(ge=18, le=HIGHEST_OPSET)] = Field(default=20, description="of the ONNX graph")
    head: Literal["auto", "argmax", "chain", "coarse"] = Field(
        default="auto",
        description="segmentation, how logits become classes; auto: the fastest on the device whose masks pass the gates, argmax where the "
        "device is not at hand",
    )
    logits: bool = Field(default=False, description="the engine gives float32 logits as a second output")
    simplify: bool = Field(default=True, description="run onnxsim (with a numeric check)")
    latency_runs: Annotated[int, Field(ge=5, le=100_000)] = Field(default=50, description="timed pairs dense/pruned")
    parity_images: Count = Field(default=16, description="images with PyTorch's answers that travel in the bundle")
    gates: Gates = Gates()

    @property
    def planned(self) -> str:
        """The precision that all before the engine is planned at; "auto" is the target's own."""
        return "auto" if self.precision == "fastest" else self.precision
