"""Does the network fit the data, and can it be pruned? Asked before anything is trained, since the answers are the same then."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from edgeprune.documents import hint
from edgeprune.errors import ModelError, RecipeError, few, first_line
from edgeprune.models.outputs import carry, choose, tells
from edgeprune.prune.channels import ChannelGraph
from edgeprune.prune.groups import find_groups, matches
from edgeprune.prune.proof import rehearse

_ENOUGH = 512  # pixels, the longer side of what the surgery is rehearsed on


def check(net: nn.Module, example: torch.Tensor, task: str, classes: Sequence[str], never: Sequence[str]) -> None:
    """Refuse a network that would fail only after hours. One whose list of outputs does not begin with what ships carries the choice
    from then on.

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
        evaluated, trained = answers(tried, example)
        choice = choose(evaluated, trained, task, len(classes), to=tuple(example.shape))
        if choice is not None:  # of a network that was not built from a recipe
            plain = tells(evaluated, choice.evaluation) and tells(trained, choice.training)
            net = carry(copy.deepcopy(net) if plain else net, choice)
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


def answers(net: nn.Module, example: torch.Tensor) -> tuple[object, object]:
    """What the network gives in evaluation, and to two images in training mode, in which it is left.

    Raises:
        ModelError: it does not run.
    """
    evaluated = _ran(net.eval(), example, "")
    return evaluated, _ran(net.train(), torch.cat([example, example]), " in training mode")


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
