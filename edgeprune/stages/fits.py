"""Does the network fit the data, and can it be pruned? Asked before anything is trained, since the answers are the same then."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import nn

from edgeprune import models
from edgeprune.documents import hint
from edgeprune.errors import ModelError, RecipeError, few, first_line
from edgeprune.prune.channels import ChannelGraph
from edgeprune.prune.groups import find_groups, matches
from edgeprune.prune.proof import rehearse

# of a task: what a network has to answer, and whether a shape is that, for so many classes
_ANSWERS: dict[str, tuple[str, Callable[[tuple[int, ...], int], bool]]] = {
    "segmentation": ("(B, {} classes, h, w) logits", lambda shape, k: len(shape) == 4 and shape[1] == k),
    "classification": ("(B, {} classes) logits", lambda shape, k: len(shape) == 2 and shape[1] == k),
    "detection": ("(B, anchors, {} classes + 4) numbers", lambda shape, k: len(shape) == 3 and shape[2] == k + 4),
}
_ENOUGH = 512  # pixels, the longer side of what the surgery is rehearsed on


def check(net: nn.Module, example: torch.Tensor, task: str, classes: Sequence[str], never: Sequence[str]) -> None:
    """Refuse a network that would fail only after hours.

    Raises:
        ModelError: it cannot be copied, does not run on `example` (1, 3, H, W), answers something else than its task asks for,
            or has no channel that can go.
        SurgeryError: cut to half, it is not the network that it should be; which channels make it so.
        RecipeError: a pattern of `prune.never` names nothing.
    """
    check_never(net, never)
    try:
        tried = copy.deepcopy(net)
    except Exception as error:
        raise ModelError(
            f"the network cannot be copied ({_line(error)}), which pruning has to do; torch.nn.utils.weight_norm is often the reason: "
            "use torch.nn.utils.parametrizations.weight_norm, or remove_weight_norm"
        ) from error
    with torch.random.fork_rng(devices=[]):  # trainings are the same with and without all this
        _answers(tried, example, task, len(classes))
        graph = find_groups(net, example, never)
        check_groups(graph, never)
        rehearse(net, graph, _smaller(tried, example))


def check_groups(graph: ChannelGraph, never: Sequence[str]) -> None:
    """Something can go.

    Raises:
        ModelError: nothing can, with the reasons.
    """
    if not graph.groups:
        patterns = f" (prune.never names {few(never)})" if never else ""
        raise ModelError("; ".join([f"no channel of the network can be pruned{patterns}", *kept_whole(graph)[:3]]))


def check_never(net: nn.Module, patterns: Sequence[str]) -> None:
    """Every pattern of `prune.never` names something.

    Raises:
        RecipeError: one does not.
    """
    layers = [name for name, m in net.named_modules() if next(m.parameters(recurse=False), None) is not None]
    top = list(dict.fromkeys(name.partition(".")[0] for name in layers))
    for pattern in patterns:
        if not any(matches(name, pattern) for name in layers):
            raise RecipeError(f"prune.never: {pattern!r} names no layer of the network; {hint(pattern, top)}")


def kept_whole(graph: ChannelGraph) -> list[str]:
    """One line a reason for which channels cannot be pruned; the classifiers' are no news."""
    reasons: dict[str, list[str]] = {}
    for module, reason in graph.unprunable.items():
        if reason != "an output of the network":
            reasons.setdefault(reason, []).append(module)
    return [
        f"kept whole: {modules[0]}{f' and {len(modules) - 1} more' if modules[1:] else ''} ({reason})"
        for reason, modules in reasons.items()
    ]


def _answers(net: nn.Module, example: torch.Tensor, task: str, classes: int) -> None:
    found = models.logits_of(_ran(net.eval(), example, ""))
    _ran(net.train(), torch.cat([example, example]), " in training mode")
    wanted, fits = _ANSWERS[task]
    shape = tuple(getattr(found, "shape", ()))
    if not fits(shape, classes):
        raise ModelError(
            f"the network answers {shape} to {tuple(example.shape)}; {task} of this data wants {wanted.format(classes)}"
        )


def _ran(net: nn.Module, images: torch.Tensor, how: str) -> object:
    try:
        with torch.no_grad():
            return net(images)
    except Exception as error:
        raise ModelError(f"the network does not run{how} on {tuple(images.shape)}: {_line(error)}") from error


def _smaller(net: nn.Module, example: torch.Tensor) -> torch.Tensor:
    """Halved until it is at most `_ENOUGH` pixels long, or as long as the network runs on it: which channels belong together is
    the same, and 1024x2048 takes minutes on a CPU."""
    found, sides = example, list(example.shape[2:])
    while max(sides) > _ENOUGH and not any(n % 64 for n in sides):
        sides = [n // 2 for n in sides]
        try:
            _ran(net.eval(), example[..., : sides[0], : sides[1]], "")
        except ModelError:
            break
        found = example[..., : sides[0], : sides[1]]
    return found


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)[:200]}"
