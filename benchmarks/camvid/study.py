"""What the study on CamVid runs, as data: scales, networks, methods, budgets, ablations.

A *row* is one network, pruned by one entry to one budget of its dense engine's measured latency, from one seed. Everything
but the entry is the same for all rows of a network and seed: the dense weights, the data, the fine-tuning, the device.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

# of the dense engine's measured latency, in the order of interest; where widths step at 16, narrow networks hardly reach 0.3x: hence 0.4x
BUDGETS = ("0.5x", "0.3x", "0.4x", "0.7x", "0.15x")
ABLATED = BUDGETS[:4]
SEEDS = (0, 1, 2, 3)  # the first three were looked at while the default was developed
KEPT = {
    "0.7x": 0.85,
    "0.5x": 0.7,
    "0.4x": 0.6,
    "0.3x": 0.5,
    "0.15x": 0.3,
}  # about the share of channels that an even share keeps under a budget


@dataclass(frozen=True)
class Scale:
    """How large the study is; the script and the page are the same for both.

    Args:
        networks: name -> `model` of a recipe.
        train, finetune, sparsity: schedules; what methods that learn in training get before they score is `sparsity`.
    """

    title: str
    size: tuple[int, int]
    networks: dict[str, dict[str, Any]]
    train: dict[str, Any]
    finetune: dict[str, Any]
    sparsity: dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """One way to prune.

    Args:
        prune, finetune, deploy: what it changes in the recipe.
        by: who prunes: "edgeprune", "torch-pruning", "scratch", "macs" or "swaps" (see `opponents.STAGES`).
        args: what that takes.
        sparsity: does it train before it scores?
        budget: instead of the latency budget.
        longer: the fine-tuning's length, times this.
    """

    title: str
    prune: dict[str, Any] = field(default_factory=dict)
    finetune: dict[str, Any] = field(default_factory=dict)
    deploy: dict[str, Any] = field(default_factory=dict)
    by: str = "edgeprune"
    args: dict[str, Any] = field(default_factory=dict)
    sparsity: bool = False
    budget: dict[str, Any] | None = None
    longer: float = 1.0


_LOSS = {"kind": "ce", "class_weights": "inverse_sqrt"}
_AUGMENT = {"scale": [0.5, 2.0], "flip": 0.5, "color": 0.3}


def _adamw(lr: float, **more: Any) -> dict[str, Any]:
    return {
        "optimizer": "adamw",
        "lr": lr,
        "weight_decay": 0.01,
        "batch": 8,
        "loss": _LOSS,
        "augment": _AUGMENT,
        **more,
    }


_NARROW = [[16, 16], [32, 32], [64, 64, 64], [96, 96, 96], [96, 96, 96]]
SCALES = {
    "cpu": Scale(
        "half resolution and narrow networks",
        (176, 240),
        {
            "streetnet": {"network": "streetnet"},
            "segnet": {"network": "segnet", "args": {"widths": _NARROW}},
            "deeplabv3-r18": {"network": "deeplabv3", "args": {"depth": 18, "width": 32, "head": 128, "output_stride": 16}},
        },
        train=_adamw(0.003, steps=2400, warmup_steps=50),
        finetune=_adamw(0.002, steps=450, warmup_steps=20, recalibrate_batches=20, distill={"logits": 1.0}),
        sparsity=_adamw(0.001, steps=150, warmup_steps=20),
    ),
    "gpu": Scale(
        "full resolution and the published widths",
        (360, 480),
        {
            "segnet": {"network": "segnet"},
            "deeplabv3-r18": {"network": "deeplabv3", "args": {"depth": 18, "output_stride": 16}},
            "bisenetv2": {"network": "bisenetv2"},
        },
        train=_adamw(0.003, epochs=300, warmup_steps=200, autocast="bf16"),
        finetune=_adamw(0.001, epochs=80, warmup_steps=50, autocast="bf16", recalibrate_batches=40, distill={"logits": 1.0}),
        sparsity=_adamw(0.001, epochs=20, warmup_steps=50, autocast="bf16"),
    ),
}  # fmt: skip

PLACES = {  # folder of results/ -> its scale, and where the rows' engines ran; rows of several places are never averaged
    "cpu": ("cpu", "CPU"),
    "cpu-epyc-avx512": ("cpu", "AVX-512"),
    "cpu-avx2-earlier": ("cpu", "AVX2, earlier program"),
    "cpu-avx512-earlier": ("cpu", "AVX-512 (Xeon), earlier program"),
    "gpu": ("gpu", "GPU"),
}

# the papers' criteria share the budget out as their papers do: all channels compete (global), or every layer keeps the same share
_GLOBAL, _UNIFORM = {"allocate": "global", "min_keep": 0.1}, {"allocate": "uniform", "min_keep": 0.1}
METHODS = {
    "edgeprune": Entry("edgeprune's default", {"method": "group_norm", "compensate": True}),
    "sirfp": Entry("SIRFP", {"method": "sirfp", **_GLOBAL}),
    "cap": Entry("CAP", {"method": "cap", **_GLOBAL}, sparsity=True),
    "acosp": Entry("ACoSP", {"method": "acosp", **_UNIFORM}, sparsity=True),
    "mtp": Entry("MTP (our reading)", {"method": "mtp", **_GLOBAL}, sparsity=True),
    "dcfp": Entry("DCFP", {"method": "dcfp", **_GLOBAL}, sparsity=True),
    "fpgm": Entry("FPGM", {"method": "fpgm", **_UNIFORM}),
    "ns": Entry("network slimming", {"method": "ns", **_GLOBAL}, sparsity=True),
    "bn_scale": Entry("BN-Scale", {"method": "bn_scale", **_GLOBAL}),
    "taylor": Entry("Taylor", {"method": "taylor", **_GLOBAL}),
    "random": Entry("random, even share", {"method": "random", **_UNIFORM}),
    "scratch": Entry("even share, trained from scratch on labels", {"method": "l2", **_UNIFORM}, by="scratch"),
    "tp_group_norm": Entry(
        "torch-pruning group magnitude", {"method": "l2"}, by="torch-pruning", args={"importance": "group_norm", "isomorphic": True}
    ),
    "tp_taylor": Entry(
        "torch-pruning Taylor", {"method": "l2"}, by="torch-pruning", args={"importance": "taylor", "isomorphic": True}
    ),
    "tp_group_norm_flat": Entry(
        "torch-pruning group magnitude, not isomorphic", {"method": "l2"}, by="torch-pruning", args={"importance": "group_norm"}
    ),
    "tp_taylor_flat": Entry(
        "torch-pruning Taylor, not isomorphic", {"method": "l2"}, by="torch-pruning", args={"importance": "taylor"}
    ),
    "tp_group_norm_sparse": Entry(
        "torch-pruning GroupNorm after its sparse training", {"method": "l2"}, by="torch-pruning",
        args={"importance": "group_norm", "isomorphic": True, "sparse": True}, sparsity=True,
    ),
    "tp_group_norm_released": Entry(
        "torch-pruning group magnitude, its own rounding", {"method": "l2"}, by="torch-pruning",
        args={"importance": "group_norm", "isomorphic": True, "rounding": "released"},
    ),
    "tp_taylor_released": Entry(
        "torch-pruning Taylor, its own rounding", {"method": "l2"}, by="torch-pruning",
        args={"importance": "taylor", "isomorphic": True, "rounding": "released"},
    ),
}  # fmt: skip
OPPONENTS = tuple(name for name, entry in METHODS.items() if entry.by == "torch-pruning")

_DEFAULT = METHODS["edgeprune"].prune
ABLATIONS = {
    "edge": Entry("SIRFP with its spatial detail term (0.4)", {"method": "sirfp", "args": {"detail": 0.4}, **_GLOBAL}),
    "cosine": Entry("SIRFP with cosine scale", {"method": "sirfp", "args": {"scale": "cosine"}, **_GLOBAL}),
    "pooled": Entry("SIRFP on maps pooled by 8", {"method": "sirfp", "args": {"pool": 8}, **_GLOBAL}),
    "swaps": Entry("SIRFP, clique improved by swaps", {"method": "sirfp", **_GLOBAL}, by="swaps"),
    "judged": Entry("default, widths judged by recovery and contest", {**_DEFAULT, "contest_steps": 120}),
    "recovered": Entry("default, losses after a recovery", {**_DEFAULT, "recovery_steps": 20}),
    "sirfp_order": Entry("default with SIRFP's order of channels", {**_DEFAULT, "method": "sirfp"}),
    "no_compensation": Entry(
        "default without compensation", {**_DEFAULT, "compensate": False, "recovery_steps": 0, "contest_steps": 0}
    ),
    "even": Entry("even share, the default's order and compensation", {**_DEFAULT, "allocate": "uniform"}),
    "macs": Entry("default's worths under a MACs budget", _DEFAULT, by="macs"),
    "nothing_cut": Entry("nothing cut, the same fine-tuning", {"method": "l2"}, budget={"macs": "1x"}),
    "no_distill": Entry("default without distillation", _DEFAULT, {"distill": None}),
    "no_recalibration": Entry("default without recalibration", _DEFAULT, {"recalibrate_batches": 0}),
    "int8": Entry("default in INT8", _DEFAULT, deploy={"precision": "int8"}),
    "nothing_cut_int8": Entry(
        "nothing cut, in INT8", {"method": "l2"}, deploy={"precision": "int8"}, budget={"macs": "1x"}
    ),
    "one_cut": Entry("SIRFP, 0.4x MACs, one cut", {"method": "sirfp", **_GLOBAL}, budget={"macs": "0.4x"}),
    "two_cuts": Entry("SIRFP, 0.4x MACs, two cuts", {"method": "sirfp", **_GLOBAL}, budget={"macs": "0.4x"}, args={"rounds": True}),
}  # fmt: skip
# how much does a method's lead hang on the fine-tuning's length? And what do longer ones make of the steps that judging widths takes?
LENGTHS = {"short": (0.25, "a quarter as long"), "long": (2.5, "2.5 times as long")}
LENGTHENED = ("edgeprune", "taylor", "tp_group_norm", "tp_taylor", "no_compensation", "even")
AT_LENGTHS = {
    f"{name}_{length}": replace(entry, title=f"{entry.title}, fine-tuned {words}", longer=times)
    for length, (times, words) in LENGTHS.items()
    for name, entry in {**METHODS, **ABLATIONS}.items()
    if name in LENGTHENED
}
ENTRIES = {**METHODS, **ABLATIONS, **AT_LENGTHS}


class Row(NamedTuple):
    """Which row."""

    network: str
    budget: str
    entry: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.network}-{self.budget}-{self.entry}-seed{self.seed}"


def rows(scale: Scale, ablations: bool = False) -> Iterator[Row]:
    """All rows, those that matter most first: one seed through, then the next."""
    for seed in SEEDS:
        for budget in BUDGETS:
            for network in scale.networks:
                yield from (Row(network, budget, entry, seed) for entry in METHODS)
        if ablations:
            more = itertools.product(scale.networks, ABLATED, (*AT_LENGTHS, *ABLATIONS))
            yield from (Row(network, budget, entry, seed) for network, budget, entry in more)


def recipe(scale: Scale, row: Row, root: str, checkpoint: str | None) -> dict[str, Any]:
    """The recipe of a row as a document; without a checkpoint, the one that trains the dense network."""
    entry, sparsity = ENTRIES[row.entry], scale.sparsity
    prune = {"batches": 20, "min_keep": 0.05, "compensate": False, **entry.prune}
    finetune = {**scale.finetune, **entry.finetune}
    length = "steps" if "steps" in scale.train else "epochs"
    if not entry.sparsity:  # as long as the others train before and after they are cut
        finetune[length] += sparsity[length]
    finetune[length] = round(finetune[length] * entry.longer)
    if entry.by == "scratch":  # as long as training and fine-tuning together, by the dense network's schedule
        finetune = {**scale.train, length: scale.train[length] + finetune[length], "recalibrate_batches": 0}
    if prune["method"] == "acosp":  # its gates are told beforehand which share of the channels will stay
        prune["args"] = {"keep": KEPT[row.budget]}
    if entry.sparsity and entry.by == "edgeprune":
        prune["sparsity"] = sparsity
    if entry.args.get("rounds"):
        first = {k: v for k, v in finetune.items() if k in scale.train} | {length: finetune[length] // 3}
        prune["rounds"] = [{"keep": "0.7x", "finetune": first}]
        finetune[length] -= first[length]
    return {
        "name": row.name, "seed": row.seed,
        "model": {**scale.networks[row.network], **({"checkpoint": checkpoint} if checkpoint else {})},
        "data": {"name": "camvid", "root": root, "size": list(scale.size)},
        "train": None if checkpoint else scale.train,
        "prune": prune, "budget": entry.budget or {"latency": row.budget}, "finetune": finetune,
        "deploy": {"latency_runs": 60, "gates": {"miou_drop": 1.0, "class_drop": 3.0}, **entry.deploy},
    }  # fmt: skip
