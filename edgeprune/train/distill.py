"""Distillation from the dense network: its answers (pixel by pixel), and how alike its classes' features are."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from edgeprune.data.dataset import IGNORE
from edgeprune.errors import ModelError
from edgeprune.models import logits_of

Apart = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]


def logits_loss(
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor | None = None, temperature: float = 1.0
) -> torch.Tensor:
    """KL(teacher || student) of the classes, mean over pixels (images), times T^2 (Hinton et al., 2015).

    With labels only over those that are judged.
    """
    t = temperature
    log_s, p_t = F.log_softmax(student.float() / t, dim=1), F.softmax(teacher.float() / t, dim=1)
    each = F.kl_div(log_s, p_t, reduction="none").sum(dim=1)
    if labels is not None and labels.shape != each.shape:  # coarse logits
        labels = F.interpolate(labels[:, None].float(), each.shape[1:], mode="nearest")[:, 0]
    judged = torch.ones_like(each, dtype=torch.bool) if labels is None else labels != IGNORE
    return (each * judged).sum() / judged.sum().clamp_min(1) * t * t


def prototypes(features: torch.Tensor, labels: torch.Tensor, classes: int) -> torch.Tensor:
    """(K, C) unit mean feature of each class; zero where a class is absent. Features (B, C, h, w), labels (B, H, W)."""
    small = F.interpolate(labels[:, None].float(), size=features.shape[-2:], mode="nearest")[:, 0].long().flatten()
    rows = features.float().permute(0, 2, 3, 1).flatten(0, 2)
    judged = small < classes
    onehot = F.one_hot(small[judged], classes).float()
    return F.normalize(onehot.T @ rows[judged], dim=1)


def relation_loss(student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Mean squared difference of the classes' cosine similarities, (K, K), over the classes that are there.

    Our reading of "class-wise features": a pruned network's features have other widths than the dense one's, so not the
    features but the relations between their class means are compared.
    """
    with torch.autocast(student.device.type, enabled=False):  # a sum over pixels leaves FP16's range
        p_s, p_t = prototypes(student, labels, classes), prototypes(teacher, labels, classes)
        there = p_t.norm(dim=1) > 0
        return (p_s @ p_s.T - p_t @ p_t.T)[there][:, there].square().mean()


class Tap:
    """Keeps the features that enter the classifier: of the convolutions with `classes` outputs the `head`.

    Before `main` has told, the head is the last one whose name has no "aux" in it.

    Raises:
        ModelError: there is none.
    """

    def __init__(self, net: nn.Module, classes: int) -> None:
        kinds = (nn.Conv2d, nn.ConvTranspose2d)
        heads = {n: m for n, m in net.named_modules() if isinstance(m, kinds) and m.out_channels == classes}
        if not heads:
            raise ModelError(
                f"finetune.distill.features: {type(net).__name__} has no convolution with {classes} outputs, whose features "
                "could be compared; set it to 0 and use finetune.distill.logits"
            )
        self.net, self.heads = net, heads
        self.head = next((n for n in reversed(heads) if "aux" not in n), next(reversed(heads)))
        self._seen: dict[str, torch.Tensor] = {}
        self._hooks = [m.register_forward_pre_hook(partial(self._keep, name)) for name, m in heads.items()]

    @property
    def features(self) -> torch.Tensor | None:
        """(B, C, h, w) of the last forward pass."""
        return self._seen.get(self.head)

    def _keep(self, name: str, module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        self._seen[name] = args[0]

    def main(self, image: torch.Tensor) -> str:
        """The head nearest before the main logits, by the graph of gradients; `head` where they hang on none of them."""
        weights = {id(m.weight): name for name, m in self.heads.items()}
        frozen = [m.weight for m in self.heads.values() if not m.weight.requires_grad]
        for weight in frozen:
            weight.requires_grad_(True)
        with torch.enable_grad():
            todo = deque([logits_of(self.net(image)).grad_fn])
        for weight in frozen:
            weight.requires_grad_(False)
        seen = set()
        while todo:
            node = todo.popleft()
            if node is None or node in seen:
                continue
            seen.add(node)
            if (name := weights.get(id(getattr(node, "variable", None)))) is not None:
                return name
            todo += [source for source, _ in node.next_functions]
        return self.head

    def remove(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()


def make_term(
    cfg: Any, student: nn.Module, teacher: nn.Module, classes: int, apart: Apart = logits_loss
) -> tuple[Callable[[torch.Tensor, Any, torch.Tensor], torch.Tensor], Callable[[], None]]:
    """The distillation term of `recipe.Distill`: (images, student's output, labels) to a scalar; and what ends it.

    Args:
        apart: student's answer, teacher's, labels, temperature -> how far they are apart.
    """
    teacher = teacher.eval()
    taps = (Tap(student, classes), Tap(teacher, classes)) if cfg.features else None
    heads: list[str] = []  # the classifier's name, once there was an image

    def term(images: torch.Tensor, output: Any, labels: torch.Tensor) -> torch.Tensor:
        if taps and not heads:
            heads.append(taps[1].main(images[:1]))
            for tap in taps:
                tap.head = heads[0]
        with torch.no_grad():
            taught = logits_of(teacher(images))
        logits = logits_of(output)
        total = logits.new_zeros(())
        if cfg.logits:
            total = total + cfg.logits * apart(logits, taught, labels, cfg.temperature)
        if taps and taps[0].features is not None and taps[1].features is not None:
            total = total + cfg.features * relation_loss(taps[0].features, taps[1].features, labels, classes)
        return total

    def end() -> None:
        for tap in taps or ():
            tap.remove()

    return term, end
