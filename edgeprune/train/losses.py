"""Losses of segmentation and classification: cross entropy with ignored labels, OHEM, GSRL, class weights, auxiliary heads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from edgeprune.data.dataset import IGNORE
from edgeprune.models import logits_of
from edgeprune.models.outputs import tensors

Loss = Callable[..., torch.Tensor]  # network output, labels and, where resampling drew for classes, those: a scalar


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
        seen += np.where(
            (found > 0) | (label.size == 1), found.sum(), 0
        )  # an image of one class is no measure of that class
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


def spread_labels(data: Any, most: int = 200) -> Iterable[np.ndarray]:
    """Labels spread over a data set, for its classes' frequencies."""
    return (data[i * len(data) // min(most, len(data))][1] for i in range(min(most, len(data))))


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Mean over judged pixels (images); 0 where there are none. (B, K, H, W) logits, (B, H, W) labels, or (B, K) and (B,)."""
    weights = None if weights is None else weights.to(logits.device)
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
    weights = None if weights is None else weights.to(logits.device)
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


def rarity(
    labels: torch.Tensor,
    classes: int,
    refer: str = "drawn",
    drawn: torch.Tensor | None = None,
    beta: float = 0.9999,
) -> torch.Tensor:
    """(B, H, W) weights of GSRL's pixels, 0 to 1: (1 - beta^n*) / (1 - beta^n), n the image's pixels of the pixel's class.

    n* belongs to the (B,) classes `drawn` that class-balanced resampling drew the images for, as released. Our readings: where
    nothing was resampled, or nothing of the class is left in the view, it is one of the image's classes at random; or, with
    `refer="rarest"`, always its rarest. Ignored pixels weigh 0.
    """
    known = torch.where((labels >= 0) & (labels < classes), labels, classes)
    counts = torch.stack([torch.bincount(k, minlength=classes + 1)[:classes] for k in known.flatten(1)]).double()
    there = counts > 0
    order = torch.rand(counts.shape).to(counts) if refer == "drawn" else -counts
    if drawn is not None and refer == "drawn":
        order = order.scatter(1, drawn[:, None], 2.0)  # before all others, if it is there
    chosen = torch.where(there, order, -torch.inf).argmax(dim=1, keepdim=True)
    effective = 1 + 1e-8 - beta**counts
    weights = (effective.gather(1, chosen) / effective).clamp(0, 1)
    weights = torch.cat([weights, weights.new_zeros(len(weights), 1)], dim=1)
    return weights.gather(1, known.flatten(1)).view(labels.shape).float()


def gsrl_weights(logits: torch.Tensor, rare: torch.Tensor, window: int = 9, doubt: float = 9.0) -> torch.Tensor:
    """(B, H, W) maxpool(rarity) * (1 + doubt * (1 - (p_first - p_second))), taken as constant."""
    first, second = logits.detach().float().softmax(dim=1).topk(2, dim=1).values.unbind(dim=1)
    wide = F.max_pool2d(rare[:, None], window, stride=1, padding=window // 2)[:, 0]
    return wide * (1 + doubt * (1 - (first - second)))


def gsrl(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Cross entropy weighed by pixel, a mean an image, then over images (DCFP, TCSVT 2024; after its released code)."""
    each = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction="none")
    weights = torch.where(labels == IGNORE, 0.0, weights)
    return ((each * weights).sum(dim=(1, 2)) / (weights.sum(dim=(1, 2)) + 1e-8)).mean()


def _heads(output: Any) -> list[torch.Tensor]:
    """The main logits first, then auxiliary ones: what else has as many channels. (Features and edge maps have not.)"""
    main, found = logits_of(output), [t for _, t in tensors(output)]
    found.pop(next(n for n, t in enumerate(found) if t is main))
    return [main, *(t for t in found if t.dim() == 4 and t.shape[1] == main.shape[1])]


def make_loss(cfg: Any, weights: torch.Tensor | None) -> Loss:
    """The loss of `recipe.Loss`: (network output, labels, drawn classes or nothing) to a scalar. The dict's other heads
    count `aux_weight`."""

    def sized(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if logits.shape[-2:] == labels.shape[-2:]:
            return logits
        return F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)

    def one(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if cfg.kind == "ohem":
            return ohem(logits, labels, weights, cfg.ohem_threshold, cfg.ohem_min_kept)
        return cross_entropy(logits, labels, weights)

    def loss(output: Any, labels: torch.Tensor, drawn: torch.Tensor | None = None) -> torch.Tensor:
        heads = [sized(h, labels) for h in _heads(output)]
        if cfg.kind == "gsrl":  # the main head's doubt weighs the pixels of all heads
            pixels = gsrl_weights(heads[0], rarity(labels, heads[0].shape[1], cfg.gsrl_class, drawn))
            losses = [gsrl(h, labels, pixels) for h in heads]
        else:
            losses = [one(h, labels) for h in heads]
        return losses[0] + cfg.aux_weight * sum(losses[1:], heads[0].new_zeros(()))

    return loss
