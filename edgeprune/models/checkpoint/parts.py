"""The sets of weights that lie in a file, and which of them is meant.

Trainers lay weights under keys ("state_dict", "model") and prefixes ("module.", "model."), and often two sets of them: the plain ones
and an average (EMA), which is what their own evaluation uses. A set is told by its names: it is one where the network's weights are
all there and nothing else is. Where two fit, one of which is called an average, that one is meant; any other two are not chosen between.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edgeprune.errors import CheckpointError, few

Tensors = dict[str, torch.Tensor]
_AVERAGES = {"ema", "average", "averaged", "swa", "polyak", "shadow", "shadows"}
_USUAL = {
    "state_dict",
    "model",
    "model_state_dict",
    "model_state",
    "params",
    "net",
    "network",
    "module",
    "weights",
    "_orig_mod",
}
_DEPTH = 8  # wrappers and prefixes inside each other that are looked into
_MOST = 10_000  # dicts that are looked into; no trainer writes a hundredth of them


@dataclass(frozen=True)
class Part:
    """Tensors that lie together.

    Attributes:
        where: the keys and prefixes that lead to them.
    """

    where: tuple[str, ...]
    tensors: Tensors

    @property
    def name(self) -> str:
        """Such as "model_ema.module"; "." is the file's outermost dict."""
        return ".".join(self.where) or "."


@dataclass(frozen=True)
class Fit:
    """A part beside what the network wants.

    Attributes:
        tensors: the part's, by the network's names.
        told: what was done to make them, a line each.
        hits: names that both have.
        missing, extra, odd: names that only the network has, that only the part has, and of another shape.
        allowed: is what is odd no fault?
    """

    part: Part
    tensors: Tensors
    told: dict[str, str]
    hits: int
    missing: list[str]
    extra: list[str]
    odd: list[str]
    allowed: bool = False

    @property
    def whole(self) -> bool:
        """Does it fit?"""
        return not self.missing and not self.extra and (self.allowed or not self.odd)


def chosen(
    path: Path, content: dict[Any, Any], fit: Callable[[Part], Fit], key: str | None, least: int | None = None
) -> tuple[Fit, str | None]:
    """The set that is meant, and a line where there were others; where none fits, that which comes nearest.

    Args:
        key: where it lies (`model.checkpoint_key`); None: choose.
        least: tensors that a set has; None: a quarter of those that lie under the same key.

    Raises:
        CheckpointError: no tensors with names; nothing at `key`; several sets, of which none is the one that is meant.
    """
    parts = _parts(path, content)
    if key is not None:
        parts = [inner for part in parts for inner in _inside(part, 1) if inner.name == key][:1]
        if not parts:
            there = few(dict.fromkeys(p.name for p in _parts(path, content)))
            raise CheckpointError(f"{path}: model.checkpoint_key: no weights under {key}; there are {there}")
    if not parts:
        name = next(iter(content))
        raise CheckpointError(f"{path}: {name} is {type(content[name]).__name__}, not a named tensor")
    fits = [found for part in parts for found in _fits(part, fit, least)]
    whole = _distinct([f for f in fits if f.whole])
    if not whole:
        return max(fits, key=lambda f: (f.hits, -len(f.extra) if f.hits else len(f.tensors))), None
    at_key = next((f for f in whole if f.part.name == key), None)
    if at_key is not None or (key is not None and len(whole) == 1):
        return at_key or whole[0], None
    is_average = _averages(content)
    averages = [f for f in whole if is_average(f.part)]
    names = few(f.part.name for f in whole)
    if key is None and (lost := _lost_average(fits, is_average)) is not None:
        raise CheckpointError(
            f"{path}: beside the weights that fit the network ({names}) lie averaged ones ({lost.name}) that do not fit it: other "
            f"names, or without the norms' statistics. model.checkpoint_key={whole[0].part.name} takes the plain "
            "ones; for the averaged ones put them into the network and save its state_dict()"
        )
    if len(whole) == 1:
        return whole[0], f"the averaged weights, {names}" if averages else _unusual(whole[0].part)
    if len(whole) == 2 and len(averages) == 1:
        average, plain = sorted(whole, key=lambda f: f is not averages[0])
        told = f"the averaged weights, {average.part.name}; model.checkpoint_key={plain.part.name} takes the plain ones"
        return average, told
    raise CheckpointError(
        f"{path}: {len(whole)} sets of weights fit the network: {names}; say which, such as model.checkpoint_key={whole[0].part.name}"
    )


def _lost_average(fits: list[Fit], is_average: Callable[[Part], bool]) -> Part | None:
    """An average that fits nowhere, beside plain weights that do."""
    whole = [f for f in fits if f.whole]
    if any(is_average(f.part) for f in whole):
        return None
    many = max(1, min(len(f.tensors) for f in whole) // 2)
    return next((f.part for f in fits if is_average(f.part) and len(f.part.tensors) >= many), None)


def _parts(path: Path, content: dict[Any, Any]) -> list[Part]:
    """Every dict of named tensors.

    Raises:
        CheckpointError: more dicts than in any checkpoint, such as many that refer to each other.
    """
    visits = itertools.count(1)

    def visit() -> None:
        if next(visits) > _MOST:
            raise CheckpointError(f"{path}: more than {_MOST:,} dicts inside each other, which no checkpoint has")

    return list(_below(content, (), (), visit))


def _below(content: Any, where: tuple[str, ...], around: tuple[int, ...], visit: Callable[[], None]) -> Iterator[Part]:
    """The parts in `content`; a list of tensors, as some averages are kept, has numbers for names. A dict that refers to one around
    it (`around`: their ids) is not gone round in."""
    if isinstance(content, list) and content and all(isinstance(v, torch.Tensor) for v in content):
        yield Part(where, {str(n): v for n, v in enumerate(content)})
    if not isinstance(content, dict) or len(where) > _DEPTH or id(content) in around:
        return
    visit()
    tensors = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}
    twins = {k: f"ema_{k.replace('.', '_')}" for k in tensors}  # mmcv's averages lie among the weights, as buffers
    if average := {k: tensors[twin] for k, twin in twins.items() if twin in tensors}:
        yield Part((*where, "ema_*"), average)
        tensors = {k: v for k, v in tensors.items() if k not in set(twins.values())}
    if tensors:
        yield Part(where, tensors)
    for key, value in content.items():
        yield from _below(value, (*where, str(key)), (*around, id(content)), visit)


def _unusual(part: Part) -> str | None:
    """A line where the weights lie under a key that no trainer that we know of has."""
    return f"the weights under {part.name}" if part.where and part.where[0] not in _USUAL else None


def _inside(part: Part, least: int) -> Iterator[Part]:
    """The part, and those below each of its prefixes that are not too small."""
    yield part
    if len(part.where) > _DEPTH:
        return
    below: dict[str, Tensors] = {}
    for key, value in part.tensors.items():
        first, dot, rest = key.partition(".")
        if dot:
            below.setdefault(first, {})[rest] = value
    for first, tensors in below.items():
        if len(tensors) >= least:
            yield from _inside(Part((*part.where, first), tensors), least)


def _fits(part: Part, fit: Callable[[Part], Fit], least: int | None) -> Iterator[Fit]:
    """Of the part; and of what lies below its prefixes, where it does not fit as it is."""
    whole: tuple[str, ...] | None = None
    for inner in _inside(part, len(part.tensors) // 4 if least is None else least):
        if whole is None or inner.where[: len(whole)] != whole:
            found = fit(inner)
            used = len(found.tensors) >= len(inner.tensors)  # a network's `rename` may have left another set out
            whole = inner.where if found.whole and used else None
            yield found


def _distinct(fits: list[Fit]) -> list[Fit]:
    kept: list[Fit] = []
    for found in fits:
        if not any(_same(found.tensors, other.tensors) for other in kept):
            kept.append(found)
    return kept


def _same(a: Tensors, b: Tensors) -> bool:
    return a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a is b:
        return True
    plain = all(t.layout == torch.strided and not (t.is_quantized or t.is_meta or t.is_nested) for t in (a, b))
    return plain and a.dtype == b.dtype and torch.equal(a, b)


def _averages(content: dict[Any, Any]) -> Callable[[Part], bool]:
    """Which parts hold averages. Two trainers swap the halves when they save: the averages are called state_dict.

    Lightning's WeightAveraging keeps the plain weights as current_model_state, mmengine's EMAHook as ema_state_dict.
    """
    other = content.get("ema_state_dict")
    if "current_model_state" in content or (isinstance(other, dict) and "steps" in other):
        return lambda part: part.where[:1] == ("state_dict",)
    return lambda part: any(
        word.lower() in _AVERAGES for name in part.where for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
    )
