"""Trained weights from a file that is not trusted, loaded into a network: every one of them, or one line why not."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from edgeprune.errors import CheckpointError, few, first_line
from edgeprune.models.checkpoint.folding import folded
from edgeprune.models.checkpoint.parts import Fit, Part, Tensors, chosen
from edgeprune.models.checkpoint.reading import content_of
from edgeprune.models.checkpoint.values import as_wanted, check_kinds

_BACKBONES = ("backbone.", "encoder.", "")  # where a network holds it
_CLASSIFIERS = {"fc", "classifier", "head", "last_linear"}
_DEEP_STEM = {"conv1": 0, "bn1": 1, "conv2": 3, "bn2": 4, "conv3": 6, "bn3": 7}
_COUNTER = "num_batches_tracked"  # older trainers do not keep it, and evaluation does not need it


@dataclass(frozen=True)
class Loaded:
    """What was loaded.

    Attributes:
        count: tensors.
        left: names of those that were left out, because only their number of classes differs.
        notes: lines to show: which of several sets of weights was taken, what was folded.
    """

    count: int
    left: list[str]
    notes: list[str]


def load_checkpoint(net: nn.Module, path: str | Path, head: bool = True, key: str | None = None) -> Loaded:
    """Load weights in place; every name must be there and fit.

    Where the file holds averaged weights (EMA) beside the plain ones, the averaged ones are taken, as the trainer's own evaluation
    does; where it cannot be told which of several sets is meant, none is. Weights in pieces (masks of torch.nn.utils.prune, weight and
    spectral norm) are put together. A network that has a method `rename(tensors)` translates published names by it.

    Args:
        head: False leaves out classifiers, of which only the number of classes differs.
        key: where in the file the weights lie, such as "state_dict" or "model_ema"; None: wherever they fit.

    Raises:
        CheckpointError: one line: no such file, code inside, missing or left-over names, another shape, several sets of weights,
            values that are no weights (NaN, quantised, complex, a negative variance).
    """
    path = Path(path).expanduser()
    want = _tensors(net)
    found, told = chosen(path, content_of(path), lambda part: _fit(part, net, want, head), key, len(want) // 4)
    place = _place(path, found.part)
    check_kinds(place, found.part.tensors, want)
    if found.odd and not head:
        _only_classes(place, {k: (tuple(found.tensors[k].shape), tuple(want[k].shape)) for k in found.odd})
    if found.odd and head:
        name = found.odd[0]
        raise CheckpointError(
            f"{place}: {name} has shape {tuple(found.tensors[name].shape)}, the network wants {tuple(want[name].shape)} "
            f"({len(found.odd)} such tensors); another number of classes? (model.checkpoint_head: false leaves them out)"
        )
    if found.missing:
        there = f"; the file holds {few(found.tensors, 3)}" if not found.hits else ""
        buffers = {name for name, _ in net.named_buffers()}
        why = (
            "buffers were not saved, norms' statistics among them"
            if buffers.issuperset(found.missing)
            else _why(found.extra)
        )
        raise CheckpointError(
            f"{place}: {len(found.missing)} weights are missing, the first is {found.missing[0]}{there}; {why}"
        )
    if found.extra:
        raise CheckpointError(
            f"{place}: {len(found.extra)} weights are not the network's, the first is {found.extra[0]}; {_why(found.extra)}"
        )
    values = {k: as_wanted(place, k, v, want[k]) for k, v in found.tensors.items() if k not in found.odd}
    _into(net, values, place)
    return Loaded(len(values), found.odd, _notes(told, found))


def load_backbone(net: nn.Module, path: str | Path, key: str | None = None) -> Loaded:
    """Load a trained backbone (of ImageNet, as torchvision and others publish them) in place.

    Its tensors may stand in the network under "backbone.", "encoder." or as they are; a classifier of the file is left out, and
    what the network has besides (its head) stays as it was made.

    Args:
        key: as `load_checkpoint`'s.

    Raises:
        CheckpointError: one line: as `load_checkpoint`, or no such backbone in the network.
    """
    path = Path(path).expanduser()
    want = _tensors(net)
    found, told = chosen(path, content_of(path), lambda part: _backbone_fit(part, net, want), key)
    place = _place(path, found.part)
    check_kinds(place, found.part.tensors, want)
    if not found.whole:
        wrong = found.extra or found.odd or found.missing
        what = "not of" if found.extra else "of another shape in" if found.odd else "missing for"
        raise CheckpointError(
            f"{place}: {len(wrong)} of {len(found.tensors)} weights are {what} the network's backbone, the first is {wrong[0]}; "
            "another network? (model.checkpoint takes a whole network's)"
        )
    values = {k: as_wanted(place, k, v, want[k]) for k, v in found.tensors.items()}
    _into(net, values, place)
    return Loaded(len(values), [], _notes(told, found))


def _into(net: nn.Module, values: Tensors, place: str) -> None:
    try:
        net.load_state_dict(values, strict=False)
    except Exception as error:  # a network may have its own way of loading
        raise CheckpointError(f"{place}: the network does not take these weights ({first_line(error)})") from error
    now = net.state_dict()
    if (lost := next((k for k, v in values.items() if not torch.equal(now[k], v.to(now[k].device))), None)) is not None:
        raise CheckpointError(
            f"{place}: {lost} has another value once all are loaded; the network has this weight under two names, or changes it "
            "when it is loaded"
        )


def _tensors(net: nn.Module) -> Tensors:
    return {k: v for k, v in net.state_dict().items() if isinstance(v, torch.Tensor)}


def _fit(part: Part, net: nn.Module, want: Tensors, head: bool) -> Fit:
    have, told = folded(part.tensors, net)
    rename = getattr(net, "rename", None)
    if rename is not None:
        with contextlib.suppress(LookupError, ValueError, RuntimeError):  # of tensors that are not this network's
            have = rename(have)
    return _compared(part, have, told, want, set(want), allowed=not head)


def _backbone_fit(part: Part, net: nn.Module, want: Tensors) -> Fit:
    have, told = folded(part.tensors, net)
    have = {k: v for k, v in have.items() if k.partition(".")[0] not in _CLASSIFIERS}
    names = [{f"{prefix}{_deep(k, want)}": v for k, v in have.items()} for prefix in _BACKBONES]
    best = max(names, key=lambda found: len(set(found) & set(want)))
    inside = {k.partition(".")[0] for k in best}
    return _compared(part, best, told, want, {k for k in want if k.partition(".")[0] in inside})


def _compared(
    part: Part, have: Tensors, told: dict[str, str], want: Tensors, needed: set[str], allowed: bool = False
) -> Fit:
    missing = sorted(k for k in needed if k not in have and not k.endswith(_COUNTER))
    odd = sorted(k for k, v in have.items() if k in want and (v.is_nested or v.shape != want[k].shape))
    hits = len(have.keys() & want.keys())
    return Fit(part, have, told, hits, missing, sorted(have.keys() - want.keys()), odd, allowed)


def _place(path: Path, part: Part) -> str:
    return f"{path} ({part.name})" if part.where else str(path)


def _notes(told: str | None, found: Fit) -> list[str]:
    kinds = sorted(set(found.told.values()))
    return ([told] if told else []) + [
        f"{kind} in {len(names)} weights, the first is {names[0]}"
        for kind in kinds
        if (names := [k for k, what in found.told.items() if what == kind])
    ]


def _why(extra: list[str]) -> str:
    """What may be the reason that there are names too many."""
    if any("parametrizations." in k or k.endswith(("_orig", "_mask", "_g", "_u")) for k in extra):
        return "weights in pieces? Merge them (torch.nn.utils.parametrize.remove_parametrizations, prune.remove) and save again"
    if any("lora_" in k for k in extra):
        return "adapters? Merge them into the weights and save again"
    return "another network?"


def _deep(name: str, want: Tensors) -> str:
    """PSPNet's ResNet begins with three convolutions, conv1 to conv3 in published backbones, layer0 in the network."""
    first, _, rest = name.partition(".")
    return f"layer0.{_DEEP_STEM[first]}.{rest}" if first in _DEEP_STEM and "layer0.0.weight" in want else name


def _only_classes(place: str, shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]) -> None:
    """Refuse if what differs is more than a number of classes, the same one in all classifiers."""
    counts = set()
    for key, (have, want) in shapes.items():
        differing = [(a, b) for a, b in zip(have, want, strict=False) if a != b]
        counts |= set(differing)
        if len(have) != len(want) or len(differing) != 1 or len(counts) > 1:
            raise CheckpointError(
                f"{place}: {key} has shape {have}, the network wants {want}; model.checkpoint_head: false leaves out classifiers of "
                "another number of classes, and this is more; another network or width?"
            )
