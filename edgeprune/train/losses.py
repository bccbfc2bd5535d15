"""Losses of segmentation: cross entropy with ignored pixels, OHEM, class weights, auxiliary heads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from edgeprune.data.dataset import IGNORE

Loss = Callable[[Any, torch.Tensor], torch.Tensor]


def class_weights(kind: str, labels: Iterable[np.ndarray], classes: int) -> torch.Tensor | None:
    """(K,) weights from the classes' frequencies, mean 1; None for "none".

    median: median frequency / frequency, over the images that hold the class (Eigen and Fergus, ICCV 2015).
    enet: 1 / ln(1.02 + p) (Paszke et al., 2016). inverse_sqrt: 1 / sqrt(p), at most 10 times the least.
    Classes that never appear get the greatest weight that is found.
    """
    if kind == "none":
        return None
    counts, seen = np.zeros(classes), np.zeros(classes)
    for label in labels:
        found = np.bincount(label.ravel(), minlength=256)[:classes]
        counts += found
        seen += np.where(found > 0, found.sum(), 0)
    share = counts / max(counts.sum(), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        if kind == "median":
            frequency = counts / seen
            weights = np.nanmedian(frequency) / frequency
        elif kind == "enet":
            weights = 1 / np.log(1.02 + share)
        else:
            weights = 1 / np.sqrt(share)
            weights = np.minimum(weights, 10 * np.nanmin(weights))
    good = np.isfinite(weights)
    weights[~good] = weights[good].max()
    return torch.tensor(weights / weights.mean(), dtype=torch.float32)


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Mean over judged pixels; 0 where there are none. (B, K, H, W) logits, (B, H, W) labels."""
    summed = F.cross_entropy(logits.float(), labels, weights, ignore_index=IGNORE, reduction="sum")
    judged = labels != IGNORE
    total = judged.sum() if weights is None else weights[labels[judged]].sum()
    return summed / total.clamp_min(1e-6)


def ohem(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None, threshold: float, min_kept: float
) -> torch.Tensor:
    """Cross entropy over the pixels whose true class has less than `threshold` probability.

    At least `min_kept` of the judged pixels, the hardest, count (Shrivastava et al., CVPR 2016, as pixel OHEM).
    """
    pixels = F.cross_entropy(logits.float(), labels, weights, ignore_index=IGNORE, reduction="none")[labels != IGNORE]
    if not len(pixels):
        return logits.sum() * 0
    least = max(1, int(min_kept * len(pixels)))
    plain = F.cross_entropy(logits.detach().float(), labels, ignore_index=IGNORE, reduction="none")[labels != IGNORE]
    hard = plain > -float(np.log(max(threshold, 1e-6)))
    if int(hard.sum()) < least:
        hard = torch.zeros_like(hard)
        hard[plain.topk(least).indices] = True
    return pixels[hard].mean()


def make_loss(cfg: Any, weights: torch.Tensor | None) -> Loss:
    """The loss of `recipe.Loss`: (network output, labels) to a scalar. The dict's other heads count `aux_weight`."""

    def one(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if logits.shape[-2:] != labels.shape[-2:]:
            logits = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
        if cfg.kind == "ohem":
            return ohem(logits, labels, weights, cfg.ohem_threshold, cfg.ohem_min_kept)
        return cross_entropy(logits, labels, weights)

    def loss(output: Any, labels: torch.Tensor) -> torch.Tensor:
        heads = list(output.values()) if isinstance(output, dict) else output
        if isinstance(heads, torch.Tensor):
            return one(heads, labels)
        if isinstance(output, dict):
            heads = [output["out"], *(v for k, v in output.items() if k != "out")]
        return one(heads[0], labels) + cfg.aux_weight * sum((one(h, labels) for h in heads[1:]), heads[0].new_zeros(()))

    return loss
