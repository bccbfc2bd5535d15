"""What the weights of a network read, call by call, and whether a channel that they read is one constant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from edgeprune.models.modes import evaluating
from edgeprune.prune.channels import ChannelGraph
from edgeprune.prune.exact import EdgePads

Example = torch.Tensor | tuple[torch.Tensor, ...]  # what a network is run on
# contrast and brightness of the noise images that constants are judged on
UNLIKE = ((1.0, 0.0), (3.0, 1.0), (0.3, -1.5))
_READ = {torch.conv1d, torch.conv2d, torch.conv_transpose2d, F.linear}


@dataclass(frozen=True)
class Reading:
    """Of a layer's input channels (C,), over all positions of images of unlike brightness and contrast: what a gate makes of
    one image is flat in space, and another of the next."""

    value: np.ndarray  # mean of the lowest and the highest
    constant: np.ndarray  # bool: there is one value only
    own: bool  # every call is made by the layer's own forward, which would add a new bias


def read(net: nn.Module, graph: ChannelGraph, example: Example) -> dict[str, Reading]:
    """Layer -> what it reads, for every layer that reads prunable channels and is called.

    Zeros that maps are padded with are left out: a channel that is one constant but for them counts as constant.
    """
    names = dict.fromkeys(m.module for g in graph.groups for m in g.members if m.kind == "in")
    watch = _Watch({n: net.get_submodule(n) for n in names})
    inputs = (example,) if isinstance(example, torch.Tensor) else example
    generator = torch.Generator().manual_seed(0)
    try:
        with evaluating(net), torch.no_grad(), EdgePads(), watch:
            for contrast, brightness in UNLIKE:
                noise = [torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device) for x in inputs]
                net(*[contrast * x + brightness for x in noise])
    finally:
        watch.remove()
    return watch.readings()


class _Watch(TorchFunctionMode):
    """Notes the range of each input channel at every call that takes one of the layers' weights."""

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        super().__init__()
        self.layers = layers
        self._names = {id(layer.weight): name for name, layer in layers.items()}
        self._low: dict[str, torch.Tensor] = {}
        self._high: dict[str, torch.Tensor] = {}
        self._own = dict.fromkeys(layers, True)
        self._within: list[nn.Module] = []  # layers whose forward is running
        self._hooks = [h for m in layers.values() for h in self._hooked(m)]

    def _hooked(self, layer: nn.Module) -> tuple[RemovableHandle, RemovableHandle]:
        def enter(module: nn.Module, args: Any) -> None:
            self._within.append(module)

        def leave(module: nn.Module, args: Any, result: Any) -> None:
            self._within.pop()

        return layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _READ:
            told = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
            if (name := self._names.get(id(told["weight"]))) is not None:
                layer = self.layers[name]
                self._own[name] &= layer in self._within
                x = told["input"].detach()
                channels = -1 if func is F.linear else x.ndim - told["weight"].ndim + 1
                flat = x.movedim(channels, 0).flatten(1)
                low, high = flat.amin(1), flat.amax(1)
                self._low[name] = torch.minimum(self._low[name], low) if name in self._low else low
                self._high[name] = torch.maximum(self._high[name], high) if name in self._high else high
        return func(*args, **kwargs)

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def readings(self) -> dict[str, Reading]:
        found = {}
        for name, low in self._low.items():
            high = self._high[name]
            scale = torch.maximum(low.abs(), high.abs()).clamp_min(1e-3)
            value, constant = (low + high) / 2, high - low <= 1e-4 * scale
            found[name] = Reading(value.cpu().numpy(), constant.cpu().numpy(), self._own[name])
        return found
