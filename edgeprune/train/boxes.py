"""Losses of detection: focal loss for classes, smooth L1 for boxes, and which anchor is to learn what.

An anchor learns the box that it overlaps by 0.5 or more, and every box is learnt by the anchor that fits it best (SSD); under 0.4 it
learns that nothing is there, and between the two, or on a box that is not judged, nothing (RetinaNet, Lin et al., ICCV 2017).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from edgeprune.data.labels import CROWD

_HIT, _MISS = 0.5, 0.4
_NEAR = 0.1  # a box that no anchor overlaps by as much is not learnt
_SPREAD = (0.1, 0.1, 0.2, 0.2)  # as `models.boxes.encode`


def overlaps(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(..., M, N) intersection over union of (..., M, 4) and (..., N, 4) boxes."""
    low = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    high = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    both = (high - low).clamp_min(0).prod(-1)
    area_a, area_b = ((x[..., 2:] - x[..., :2]).clamp_min(0).prod(-1) for x in (a, b))
    return both / (area_a[..., :, None] + area_b[..., None, :] - both).clamp_min(1e-9)


def inside(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(M, N) share of each of (M, 4) boxes that lies in each of (N, 4): how COCO judges what overlaps a crowd."""
    low, high = torch.maximum(a[:, None, :2], b[None, :, :2]), torch.minimum(a[:, None, 2:], b[None, :, 2:])
    return (high - low).clamp_min(0).prod(-1) / (a[:, 2:] - a[:, :2]).clamp_min(0).prod(-1)[:, None].clamp_min(1e-9)


def assign(anchors: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(N,) which row of one image's (M, 6) labels each anchor learns; -1 none is there, -2 nothing is learnt."""
    chosen = torch.full((len(anchors),), -1, device=anchors.device)
    crowd = labels[:, 5] == CROWD
    there = torch.nonzero((labels[:, 4] >= 0) & ~crowd)[:, 0]
    crowds = labels[(labels[:, 4] >= 0) & crowd, :4]
    if len(crowds):
        chosen[inside(anchors, crowds).amax(dim=1) >= _HIT] = -2
    if not len(there):
        return chosen
    table = overlaps(anchors, labels[there, :4])
    most, which = table.max(dim=1)
    ignored = labels[there, 5] > 0
    chosen[most >= _MISS] = -2
    chosen[most >= _HIT] = there[which[most >= _HIT]]
    chosen[(most >= _MISS) & ignored[which]] = -2
    best, at = table.max(dim=0)
    judged = torch.nonzero(~ignored & (best > _NEAR))[:, 0]
    chosen[at[judged]] = there[judged]  # the best anchor of every judged box
    return chosen


def encode(boxes: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    """(N, 4) offsets of boxes from their anchors; as `models.boxes.encode`."""
    size, anchor = (boxes[:, 2:] - boxes[:, :2]).clamp_min(1e-3), anchors[:, 2:] - anchors[:, :2]
    centre = (boxes[:, :2] + boxes[:, 2:] - anchors[:, :2] - anchors[:, 2:]) / 2
    return torch.cat([centre / anchor, (size / anchor).log()], dim=1) / boxes.new_tensor(_SPREAD)


def focal(logits: torch.Tensor, wanted: torch.Tensor, gamma: float, alpha: float) -> torch.Tensor:
    """Focal loss of independent sigmoids, element by element: -alpha_t (1 - p_t)^gamma log p_t."""
    each = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    p = logits.sigmoid()
    miss = p + wanted - 2 * p * wanted  # 1 - p_t
    return (alpha * wanted + (1 - alpha) * (1 - wanted)) * miss**gamma * each


def detection_loss(heads: torch.Tensor, labels: torch.Tensor, anchors: torch.Tensor, cfg: Any) -> torch.Tensor:
    """Focal loss plus `box_weight` times smooth L1, both summed and divided by the anchors that learn a box (at least 1).

    Args:
        heads: (B, N, K + 4) class logits and offsets.
        labels: (B, M, 6), see `data.labels`; rows of class -1 hold nothing.
        anchors: (N, 4).
        cfg: `recipe.Loss`.
    """
    logits, offsets = heads[..., :-4].float(), heads[..., -4:].float()
    total, count = logits.new_zeros(()), 0
    for n in range(len(heads)):
        chosen = assign(anchors, labels[n])
        found = torch.nonzero(chosen >= 0)[:, 0]
        rows = labels[n][chosen[found]]
        wanted = torch.zeros_like(logits[n])
        wanted[found, rows[:, 4].long()] = 1
        learnt = (chosen != -2).to(logits)[:, None]
        total = total + (focal(logits[n], wanted, cfg.focal_gamma, cfg.focal_alpha) * learnt).sum()
        target = encode(rows[:, :4], anchors[found])
        total = total + cfg.box_weight * F.smooth_l1_loss(offsets[n][found], target, reduction="sum", beta=1 / 9)
        count += len(found)
    return total / max(count, 1)


def divergence(
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor | None = None, temperature: float = 1.0
) -> torch.Tensor:
    """How far (B, N, K + 4) heads are from the teacher's, whatever the labels: KL of each sigmoid plus the boxes' distance where something is.

    The sum over classes and anchors, times T^2, a thing: divided by the summed confidence of the teacher (its best class, at
    least 1). Boxes count by that confidence, as smooth L1.
    """
    t = temperature
    p, mine = teacher[..., :-4].float() / t, student[..., :-4].float() / t
    share = p.sigmoid()
    kl = share * (F.logsigmoid(p) - F.logsigmoid(mine)) + (1 - share) * (F.logsigmoid(-p) - F.logsigmoid(-mine))
    sure = teacher[..., :-4].float().sigmoid().amax(dim=-1)
    away = F.smooth_l1_loss(student[..., -4:].float(), teacher[..., -4:].float(), reduction="none", beta=1 / 9).sum(-1)
    return (kl.sum() * t * t + (away * sure).sum()) / sure.sum().clamp_min(1.0)
