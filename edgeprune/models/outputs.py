"""Which of a network's outputs ships. It is chosen once, where the network is built, and the network carries the choice.

A network answers with one tensor, or with several in dicts, lists, (named) tuples and dataclasses, which may lie in each other.
A path names a tensor in there: keys, field names and indices with dots between them, such as "out", "-1" or "heads.0".
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from edgeprune.errors import ModelError, few
from edgeprune.plain_yaml import YamlFault, parse

MAIN = ("out", "logits")  # names of a main output: torchvision's and ours, transformers'

# of a task: what a network has to answer, and whether a shape is that, for so many classes
ANSWERS: dict[str, tuple[str, Callable[[tuple[int, ...], int], bool]]] = {
    "segmentation": ("(B, {} classes, h, w) logits", lambda shape, k: len(shape) == 4 and shape[1] == k),
    "classification": ("(B, {} classes) logits", lambda shape, k: len(shape) == 2 and shape[1] == k),
    "detection": ("(B, anchors, {} classes + 4) numbers", lambda shape, k: len(shape) == 3 and shape[2] == k + 4),
}


def logits_of(output: Any) -> Any:
    """The main logits of a network's output: the tensor, what is named "out" or "logits", or the first of a list if no other
    tensor of it has as many channels.

    Raises:
        ModelError: names, but none of the two; an empty list; a list of several that may be meant.
    """
    parts = _parts(output)
    if parts is None:
        return output
    main = next((parts[name] for name in MAIN if name in parts), None)
    if main is not None:
        return logits_of(main)
    if _named(output) or not parts:
        kind = "dict" if isinstance(output, Mapping) else type(output).__name__
        raise ModelError(
            f"model: the network gives a {kind} of {few(map(repr, parts))}; its logits belong under 'out', or "
            "model.output names their key"
        )
    first = logits_of(next(iter(parts.values())))
    alike = [
        t for _, t in tensors(output) if t is not first and t.ndim == first.ndim and t.shape[1:2] == first.shape[1:2]
    ]
    if alike:
        raise ModelError(
            f"model.output: the network gives {_listed(dict(tensors(output)))}; say which one ships, such as --set model.output=-1"
        )
    return first


def tensors(output: Any, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """(path, tensor) of every tensor in a network's output, in order."""
    parts = _parts(output)
    if parts is None:
        if isinstance(output, torch.Tensor):
            yield path, output
        return
    for name, part in parts.items():
        yield from tensors(part, f"{path}.{name}" if path else name)


def floats(output: Any) -> list[torch.Tensor]:
    """The real floating-point tensors of a network's output, in order: what can be compared and differentiated."""
    return [t for _, t in tensors(output) if t.is_floating_point()]


def tensor_at(output: Any, path: str) -> torch.Tensor | None:
    """The tensor at a path, if there is one; indices count from the end where they are negative."""
    if not path:
        return output if isinstance(output, torch.Tensor) else None
    parts = _parts(output) or {}
    if isinstance(output, (list, tuple)):
        parts = parts | {str(n - k): output[n] for k in (0, len(output)) for n in range(len(output))}
    for name, part in parts.items():
        if path == name or path.startswith(f"{name}."):  # a key may have dots itself
            return tensor_at(part, path[len(name) + 1 :])
    return None


@dataclasses.dataclass(frozen=True)
class Choice:
    """A forward hook of the whole network: what it then answers is {"out": the tensor that ships, "aux.<path>": each other one}.

    Args:
        evaluation, training: paths of what ships in each mode; "" where it is all that the network gives.
    """

    evaluation: str
    training: str

    def __call__(self, net: nn.Module, args: Any, output: Any) -> Any:
        if _parts(output) is None:
            return output
        path = self.training if net.training else self.evaluation
        main = tensor_at(output, path)
        if main is None:
            raise ModelError(
                f"model.output: there is no tensor at {path!r} of what the network gives now: {_listed(dict(tensors(output)))}"
            )
        return {"out": main, **{f"aux.{name}": t for name, t in tensors(output) if t is not main}}


def carry(net: nn.Module, choice: Choice | None) -> nn.Module:
    """`net`, which carries the choice from now on, instead of an earlier one; names of its weights stay."""
    if choice is not None:
        for key in [k for k, hook in net._forward_hooks.items() if isinstance(hook, Choice)]:
            del net._forward_hooks[key]
        net.register_forward_hook(choice)
    return net


def choose(
    evaluated: Any, trained: Any, task: str, classes: int, asked: str | None = None, to: tuple[int, ...] = ()
) -> Choice | None:
    """Which output ships, by what a network gave in evaluation and in training mode; None where its form alone tells: one tensor, or
    a plain dict with "out" or "logits".

    What is asked for ships; else the only tensor that fits the task; else of several that fit the one that is named as the main one.
    A main output that does not fit is not silently replaced by another one.

    Args:
        to: the shape of the images in evaluation, for the message.

    Raises:
        ModelError: nothing fits, several do, or nothing lies at the path that is asked for.
    """
    if asked is not None and _parts(evaluated) is None and _parts(trained) is None:
        raise ModelError(f"model.output: {asked!r} names nothing, the network gives one tensor; leave the key out")
    modes = ((evaluated, f"to {to}"), (trained, "in training mode"))
    evaluation, training = (_path(output, how, task, classes, asked) for output, how in modes)
    if _plain(evaluated, evaluation) and _plain(trained, training):
        return None
    return Choice(evaluation, training)


def _path(output: Any, how: str, task: str, classes: int, asked: str | None) -> str:
    """Of the tensor that ships, in what one mode gives."""
    wanted, fits = ANSWERS[task]
    found = dict(tensors(output))
    fitting = {path: t for path, t in found.items() if fits(tuple(t.shape), classes)}
    if asked is not None and _parts(output) is not None:
        main = tensor_at(output, asked)
        if main is None:
            raise ModelError(
                f"model.output: there is no tensor at {asked!r}; the network answers {_listed(found)} {how}"
            )
        fitting = {asked: main} if fits(tuple(main.shape), classes) else {}
        found = {asked: main}
    if not fitting:
        raise ModelError(
            f"the network answers {_listed(found)} {how}; {task} of this data wants {wanted.format(classes)}"
        )
    main_ones = [path for path in found if path.split(".")[0] in MAIN]
    if asked is None and main_ones and not any(path in fitting for path in main_ones):
        ways = " or ".join(_setting(path) for path in fitting)
        raise ModelError(
            f"model.output: {task} of this data wants {wanted.format(classes)}, and the network's main output is "
            f"{_listed({path: found[path] for path in main_ones})} {how}; if another one ships, say so: {ways}"
        )
    named = [path for path in fitting if all(part in MAIN for part in path.split("."))]
    for only in (list(fitting), named):
        if len(only) == 1:
            return only[0]
    ways = ", ".join(f"{_setting(path)} for {path} {tuple(t.shape)}" for path, t in fitting.items())
    raise ModelError(
        f"model.output: {len(fitting)} outputs of the network may be its answer {how}, and only one ships; say which: {ways}"
    )


def tells(output: Any, path: str) -> bool:
    """Is what lies at the path what `logits_of` finds by itself?"""
    try:
        return logits_of(output) is tensor_at(output, path)
    except (KeyError, ModelError):
        return False


def _plain(output: Any, path: str) -> bool:
    """Is it found by itself, whatever the widths of the other outputs are, in a form that exporters take?"""
    named = type(output) is dict and path in MAIN and all(isinstance(t, torch.Tensor) for t in output.values())
    return not path or (named and tells(output, path))


def _parts(output: Any) -> dict[str, Any] | None:
    """Names and parts of what holds several outputs; None for a single one."""
    if isinstance(output, Mapping):
        return {str(name): part for name, part in output.items()}
    if dataclasses.is_dataclass(output) and not isinstance(output, (type, torch.Tensor)):
        return {f.name: getattr(output, f.name) for f in dataclasses.fields(output)}
    if isinstance(output, (list, tuple)):
        names = output._fields if _named(output) else map(str, range(len(output)))  # type: ignore[union-attr]
        return dict(zip(names, output, strict=True))
    return None


def _named(output: Any) -> bool:
    return not isinstance(output, (list, tuple)) or hasattr(output, "_fields")


def _listed(found: dict[str, torch.Tensor]) -> str:
    shapes = [f"{path} {tuple(t.shape)}".strip() for path, t in found.items()]
    return ", ".join(shapes) or "no tensor"


def _setting(path: str) -> str:
    """The option that asks for a path, in quotes where YAML would read something else."""
    try:
        read, _ = parse(path)
    except YamlFault:
        read = None
    told = path if type(read) in (int, str) and str(read) == path else f'"{path}"'
    return f"--set {shlex.quote(f'model.output={told}')}"
