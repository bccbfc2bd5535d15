"""MTP: multi-task pruning (Chen, Zhang and Wang, ICME 2022, arXiv 2007.08386). OUR READING: only its abstract was at hand.

Known: a segmentation network is a multi-task one, as its backbone was pretrained for classification; a filter's importance is
judged by both tasks at once; importance and weights are optimised in alternation. No formula, weight or schedule is known to us.

Our reading, with p_t = gamma dL_t/dgamma + beta dL_t/dbeta of a group's norms (a gate behind the norm), t = seg, cls:
    I_t = mean of (signed sum of p_t over the group's members)^2, running over the scored batches
    I = I_seg / ||I_seg||_2 + alpha * I_cls / ||I_cls||_2      (norms over the group's channels)
Groups of which no producer matches `backbone` (a glob) are judged by segmentation alone.
Normalising before adding keeps the task of the larger loss from deciding: scaling a loss changes nothing.
Alternation: `prune.sparsity` trains the weights with L_seg + alpha L_cls, and at every `every`-th step the importances take
in both tasks' gradients (weights standing still); `prune.rounds` cuts in between.

Deviation where there is no classification set: image-level labels "which classes are here" are read off the masks, and L_cls is
the binary cross entropy between them and the mean over the image of the segmentation logits, so there is no second head and no
pretraining knowledge beyond what the weights still hold.
"""

from __future__ import annotations

import fnmatch
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from edgeprune.models import logits_of
from edgeprune.prune.channels import Group
from edgeprune.prune.criteria.members import Clock, taps
from edgeprune.prune.criteria.taylor import products, signed
from edgeprune.prune.ranks import averaged


def combined(seg: np.ndarray, cls: np.ndarray, alpha: float) -> np.ndarray:
    """(units,) importance of both tasks; a task with no importance at all counts nothing."""
    return _unit(seg) + alpha * _unit(cls)


def _unit(values: np.ndarray) -> np.ndarray:
    length = float(np.linalg.norm(values))
    return values / length if length > 0 else values


def presence(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """(B, K) 1 where a class stands anywhere in the mask; (B, H, W) labels, others than 0..K-1 ignored."""
    known = torch.where((labels >= 0) & (labels < classes), labels, classes).flatten(1)
    return torch.zeros(len(known), classes + 1, device=labels.device).scatter_(1, known, 1.0)[:, :classes]


def over_processes(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Products of the gradients that all processes' batches have together, so that squares are taken of those."""
    whole = averaged(torch.from_numpy(np.concatenate(list(found.values())))).numpy()
    ends = np.cumsum([len(v) for v in found.values()])[:-1]
    return dict(zip(found, np.split(whole, ends), strict=True))


class MTP:
    """Importance by segmentation and by image-level classification.

    Args:
        alpha: weight of classification, 0 to 1, in the loss and in the importance.
        every: training steps between two updates of the importances.
        decay: of the running mean of the importances.
        backbone: glob of the modules that classification judges, such as "backbone.*"; all by default.
    """

    needs_data = False
    needs_gradient = False
    training = "must"
    tasks = ("segmentation",)  # it reads both tasks' labels off the masks

    def __init__(self, alpha: float = 0.5, every: int = 2, decay: float = 0.99, backbone: str = "*") -> None:
        self.alpha, self.every, self.decay, self.backbone = alpha, every, decay, backbone
        self.clock = Clock()
        self._groups: list[Group] = []
        self._layers: dict[str, nn.Module] = {}
        self._importance: dict[str, dict[str, torch.Tensor]] = {"seg": {}, "cls": {}}
        self._step = 0

    def attach(self, net: nn.Module, groups: list[Group]) -> None:
        """Remember the groups' norms."""
        self._groups = groups
        self._layers = {m.module: net.get_submodule(m.module) for g in groups for m in taps(g)}

    def before_step(self, step: int, steps: int, per_epoch: float) -> None:
        """Remember where the training is."""
        self._step = step

    def term(self, value: torch.Tensor, output: Any, labels: torch.Tensor) -> torch.Tensor:
        """alpha * L_cls of a batch; on every `every`-th step its gradients and those of `value` = L_seg are taken in."""
        logits = logits_of(output)
        here = presence(labels, logits.shape[1])
        classification = F.binary_cross_entropy_with_logits(logits.float().mean(dim=(2, 3)), here)
        if self._step % self.every == 0:
            with self.clock:
                self._take("seg", value)
                self._take("cls", classification)
        return self.alpha * classification

    def _take(self, task: str, loss: torch.Tensor) -> None:
        parameters = [p for layer in self._layers.values() for p in layer.parameters(recurse=False) if p.requires_grad]
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        of: dict[torch.Tensor, torch.Tensor | None] = dict(zip(parameters, gradients, strict=True))
        found = over_processes({name: products(layer, lambda p: of.get(p)) for name, layer in self._layers.items()})
        kept = self._importance[task]
        for g in self._groups:
            new = torch.from_numpy(signed(g, found, "norm") ** 2)
            kept[g.name] = self.decay * kept.get(g.name, torch.zeros_like(new)) + (1 - self.decay) * new

    def state(self) -> dict[str, Any]:
        """What a killed training goes on from."""
        return {task: dict(kept) for task, kept in self._importance.items()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._importance = {task: dict(kept) for task, kept in state.items()}

    def detach(self) -> None:
        """Nothing is attached."""

    def scores(self) -> dict[str, np.ndarray]:
        """group -> (units,) combined importance; 0 where no batch was scored."""
        return {g.name: self._score(g) for g in self._groups}

    def _score(self, group: Group) -> np.ndarray:
        seg, cls = (self._importance[task].get(group.name, torch.zeros(group.size)).numpy() for task in ("seg", "cls"))
        judged = any(fnmatch.fnmatch(name, self.backbone) for name in group.producers)
        return combined(seg, cls, self.alpha if judged else 0.0)
