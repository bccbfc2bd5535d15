"""What stands where a block has vanished: layers without channels write zeros, their readers a constant.

A layer that wrote a vanished group becomes `Nothing` (one channel of zeros, of the size that its output had, so that
whatever operators lie between still run); one that read it becomes `Constant` (its bias on every pixel); norms and
activations of no channel become the identity. An engine's compiler sees constants and folds all of it away.
"""

from __future__ import annotations

import torch
from torch import nn


class _Layer(nn.Module):
    """Keeps a convolution's geometry."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.linear = isinstance(layer, nn.Linear)
        self.geometry: list[tuple[int, int, int]] = []  # stride, padding of both sides, reach of the kernel
        if isinstance(layer, (nn.Conv1d, nn.Conv2d)):
            reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
            named = {"same": reach, "valid": [0] * len(reach)}
            padding = named[layer.padding] if isinstance(layer.padding, str) else [2 * p for p in layer.padding]
            self.geometry = list(zip(layer.stride, padding, reach, strict=True))

    def size(self, x: torch.Tensor) -> list[int]:
        """The layer's output height and width for this input."""
        return [(n + p - r - 1) // s + 1 for n, (s, p, r) in zip(x.shape[2:], self.geometry, strict=True)]


class Nothing(_Layer):
    """In place of a convolution (B, I, H, W) or linear layer (..., I) whose output has vanished: zeros, one channel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.new_zeros(*x.shape[:-1], 1) if self.linear else x.new_zeros(x.shape[0], 1, *self.size(x))


class Constant(_Layer):
    """In place of one whose input has vanished: the bias everywhere (on one pixel where `spread` is off)."""

    spread = True

    def __init__(self, layer: nn.Module) -> None:
        super().__init__(layer)
        self.width = int(layer.out_features if self.linear else layer.out_channels)  # type: ignore[arg-type]
        self.register_parameter("bias", layer.bias)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = x.new_zeros(self.width) if self.bias is None else self.bias
        assert isinstance(bias, torch.Tensor)
        if self.linear:
            return bias.expand(*x.shape[:-1], self.width)
        one = bias.view(1, -1, *[1] * len(self.geometry))
        return one.expand(x.shape[0], self.width, *self.size(x)) if self.spread else one


def stand_in(module: nn.Module) -> nn.Module | None:
    """What replaces a module some of whose tensors have no channel left; None for any other."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.numel():
        return None
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)):
        return Nothing(module) if weight.shape[0] == 0 else Constant(module)
    return nn.Identity()
