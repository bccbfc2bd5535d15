"""Does the network fit the data, can it be pruned, does it ship? Asked before anything is trained: the answers are the same then."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from edgeprune.data.transforms import IMAGENET
from edgeprune.deploy.export import Heads, Shipped
from edgeprune.documents import hint
from edgeprune.errors import ModelError, RecipeError, SurgeryError, few, kind_and_line
from edgeprune.models.attributes import check_attributes
from edgeprune.models.outputs import carry, choose, tells
from edgeprune.models.state import unchanged
from edgeprune.prune.channels import ChannelGraph
from edgeprune.prune.groups import find_groups, matches
from edgeprune.prune.proof import rehearse
from edgeprune.stages import rehearsal
from edgeprune.stages.draws import draws_kept
from edgeprune.stages.first_graph import Shipping, ship

_SHIPPED: dict[str, Callable[[nn.Module], Heads]] = {
    "segmentation": lambda net: Shipped(net, *IMAGENET, logits=True),
    "classification": lambda net: Heads(net, *IMAGENET, "logits"),
    "detection": lambda net: Heads(net, *IMAGENET, "heads"),
}
_STRIDE = 64  # no network here divides the sides of an image by more
_ENOUGH = 256  # pixels, the longer side of what all is rehearsed on


@dataclass(frozen=True)
class Wanted:
    """What a run has in mind for its network; the defaults are for a network alone.

    Attributes:
        build: the network built anew.
        loss: (output, images) -> the task's loss on made-up labels.
        shipped: the network with what ships around it, and its logits among the outputs.
        shipping: what the graph is made for.
    """

    build: Callable[[], nn.Module] | None = None
    loss: rehearsal.Loss = rehearsal.mean_square
    channels_last: bool = True
    shipped: Callable[[nn.Module], Heads] | None = None
    shipping: Shipping = field(default_factory=Shipping)


def check(
    net: nn.Module,
    example: torch.Tensor,
    task: str,
    classes: Sequence[str],
    never: Sequence[str],
    wanted: Wanted = Wanted(),  # noqa: B008
) -> list[str]:
    """Refuse a network that would fail only after hours; what else there is to know of it comes back, a line each. One whose list of
    outputs does not begin with what ships carries the choice from then on.

    Raises:
        ModelError: it cannot be copied, does not run on `example` (1, 3, H, W), answers something else than its task asks for,
            fails a step of the rehearsal (`rehearsal.STEPS`), or has no channel that can go.
        SurgeryError: cut to half, it is not the network that it should be; which channels make it so.
        ExportError: an operator that the exporter or the target does not take, or computes otherwise.
        RecipeError: a pattern of `prune.never` names nothing.
    """
    check_attributes(net)
    check_never(net, never)
    try:
        tried = copy.deepcopy(net)
    except Exception as error:
        raise ModelError(
            f"the network cannot be copied ({kind_and_line(error)}), which pruning has to do; torch.nn.utils.weight_norm is often the reason: "
            "use torch.nn.utils.parametrizations.weight_norm, or remove_weight_norm"
        ) from error
    with draws_kept():  # trainings are the same with and without all this
        small = smaller(tried, example)
        try:
            evaluated, trained = answers(tried, small)
        except ModelError as error:
            if _runs(net, example) and not _runs(tried, example):
                raise rehearsal.held_by_original(
                    f"does not run where the network itself does ({error.__cause__!r})"
                ) from error
            raise
        choice = choose(evaluated, trained, task, len(classes), to=tuple(small.shape))
        if choice is not None:  # of a network that was not built from a recipe
            plain = tells(evaluated, choice.evaluation) and tells(trained, choice.training)
            net = carry(copy.deepcopy(net) if plain else net, choice)
        images = torch.randn(2, *small.shape[1:], generator=torch.Generator().manual_seed(0))
        stage = rehearsal.Stage(
            net, images, wanted.build or (lambda: copy.deepcopy(net)), wanted.loss, wanted.channels_last
        )
        notes = [note for step in rehearsal.STEPS if (note := step(stage))]
        with unchanged(net):  # evaluation and back may round what a layer merges
            graph = _captured(net, example, never)
        check_groups(graph, never)
        rehearse(net, graph, small)
        ship(net, small, wanted.shipped or _SHIPPED[task], wanted.shipping)
    return notes


def _captured(net: nn.Module, example: torch.Tensor, never: Sequence[str]) -> ChannelGraph:
    """The channel graph at full size, at which nothing else runs the network: capturing computes shapes alone."""
    try:
        return find_groups(net, example, never)
    except SurgeryError:
        _ran(net.eval(), example, "")  # what is wrong is better said by the network itself
        raise


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


def _runs(net: nn.Module, images: torch.Tensor) -> bool:
    try:
        with unchanged(net):
            _ran(net.eval(), images, "")
    except ModelError:
        return False
    return True


def _ran(net: nn.Module, images: torch.Tensor, how: str) -> object:
    try:
        with torch.no_grad():
            return net(images)
    except Exception as error:
        raise ModelError(f"the network does not run{how} on {tuple(images.shape)}: {kind_and_line(error)}") from error


def smaller(net: nn.Module, example: torch.Tensor) -> torch.Tensor:
    """At most `_ENOUGH` pixels long, or halved as long as the network runs on it: which channels belong together, and which
    operators compute, is the same, and 1024x2048 takes minutes on a CPU."""
    sides = [int(n) for n in example.shape[2:]]
    share = _ENOUGH / max(sides)
    if share >= 1:
        return example
    least = example[..., : _rounded(sides[0], share), : _rounded(sides[1], share)]
    if _takes(net, least):
        return least
    found = example
    while max(sides) > _ENOUGH and not any(n % _STRIDE for n in sides):
        sides = [n // 2 for n in sides]
        part = example[..., : sides[0], : sides[1]]
        if not _takes(net, part):
            break
        found = part
    return found


def _rounded(side: int, share: float) -> int:
    """A share of a side, as a multiple of what networks divide sides by."""
    return min(side, math.ceil(side * share / _STRIDE) * _STRIDE)


def _takes(net: nn.Module, images: torch.Tensor) -> bool:
    try:
        _ran(net.eval(), images, "")
        _ran(net.train(), torch.cat([images, images]), "")
    except ModelError:
        return False
    return True
