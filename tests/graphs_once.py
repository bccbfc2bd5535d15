"""Channel graphs of the shipped networks, captured once a process for each shape: hundreds of tests start from the same few."""

import copy
import functools
from typing import Any

import torch
from torch import nn

_OURS = ("edgeprune.models.", "torch.nn.modules.")
_PLAIN = (bool, int, float, str, tuple, list, type(None))


def capture_once() -> None:
    """Before any test file is imported. Networks of tests' own, and such as hold what cannot be compared, are captured every time."""
    from edgeprune.prune import groups

    capture: Any = groups.find_groups
    known: dict[Any, Any] = {}

    @functools.wraps(capture)
    def found(net: nn.Module, example: Any, never: Any = (), tied: Any = frozenset()) -> Any:
        key = _key(net, example, never, tied)
        if key is None:
            return capture(net, example, never, tied)
        if key not in known:
            known[key] = capture(net, example, never, tied)
        return copy.deepcopy(known[key])

    groups.find_groups = found


def _key(net: nn.Module, example: Any, never: Any, tied: Any) -> Any:
    if not isinstance(example, torch.Tensor) or not type(net).__module__.startswith("edgeprune.models."):
        return None
    parts, first = [], {}
    for name, module in net.named_modules(remove_duplicate=False):
        own = {k: v for k, v in vars(module).items() if not k.startswith("_")}
        hooks = [v for k, v in vars(module).items() if k.startswith("_") and "hooks" in k and v]
        if (
            hooks
            or not type(module).__module__.startswith(_OURS)
            or not all(isinstance(v, _PLAIN) for v in own.values())
        ):
            return None
        parts.append((name, type(module).__qualname__, repr(sorted(own.items()))))
    for name, tensor in [*net.named_parameters(remove_duplicate=False), *net.named_buffers(remove_duplicate=False)]:
        same = first.setdefault(id(tensor), name)
        parts.append((name, same, tuple(tensor.shape), tensor.dtype, tensor.requires_grad))
    return (type(net).__qualname__, tuple(parts), tuple(example.shape), example.dtype, tuple(never), tied)
