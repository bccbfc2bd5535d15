"""Ways of running a network in which a cut can be judged exactly: zero padding and rounding put aside.

Both work on calls of functions (`torch.overrides`), so it does not matter whether a module or a forward makes them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

_CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_POOL = ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
_PADDED = {
    torch.conv1d: (1, _CONV),
    torch.conv2d: (2, _CONV),
    F.avg_pool1d: (1, _POOL),
    F.avg_pool2d: (2, _POOL),
}
_CASTS = {torch.Tensor.to, torch.Tensor.type, torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16}


class EdgePads(TorchFunctionMode):
    """What is padded with a constant in space (convolutions, average pooling, `F.pad`) is padded with its own edge.

    A map that is constant then stays so. Zero channels, and what max pooling pads with, are left as they are.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _PADDED:
            axes, names = _PADDED[func]
            told = dict(zip(names, args, strict=False)) | kwargs
            if pads := _pads(told, axes):
                x = F.pad(told["input"], pads, mode="replicate")
                return func(**{**told, "input": x, "padding": 0})
        elif func is F.pad:
            told = dict(zip(("input", "pad", "mode", "value"), args, strict=False)) | kwargs
            if told.get("mode", "constant") == "constant" and told["input"].ndim == 4 and len(told["pad"]) >= 4:
                cut, rest = [min(p, 0) for p in told["pad"][:4]], told["pad"][4:]
                x = F.pad(told["input"], [*cut, *rest], value=told.get("value"))
                return F.pad(x, [max(p, 0) for p in told["pad"][:4]], mode="replicate")
        return func(*args, **kwargs)


def _pads(told: dict[str, Any], axes: int) -> list[int]:
    """As `F.pad` takes them; none where nothing is padded."""
    padding = told.get("padding", 0)
    if padding == "same":
        reach = [
            d * (k - 1) for d, k in zip(_each(told.get("dilation", 1), axes), told["weight"].shape[2:], strict=True)
        ]
        pairs = [(r // 2, r - r // 2) for r in reach]
    else:
        pairs = [(p, p) for p in _each(0 if padding == "valid" else padding, axes)]
    return [p for pair in reversed(pairs) for p in pair] if any(map(any, pairs)) else []


def _each(value: Any, axes: int) -> list[int]:
    found = list(value) if isinstance(value, (list, tuple)) else [value]
    return found * axes if len(found) == 1 else found


class Doubled(TorchFunctionMode):
    """For a network in double precision: it casts nothing to less."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _CASTS and args[0].dtype == torch.float64 and result.is_floating_point():
            return args[0]
        return result
