"""How a training step lies in memory: channels-last layout, activation checkpointing."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from edgeprune.errors import first_line
from edgeprune.models.difference import farthest
from edgeprune.models.outputs import Choice, floats

_tried: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()  # a network -> does it run in NHWC?
_TOLD = ("can't allocate memory", "not enough memory", "ALLOC_FAILED")  # of memory that ran out, by torch
_ALIKE = 1e-3  # of the largest output: kernels of the two layouts add up in another order


def image_layout(
    channels_last: bool,
    net: nn.Module,
    images: torch.Tensor | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> torch.memory_format:
    """NHWC suits convolutions on tensor cores and on CPUs; NCHW where a network is faster so, or would break in NHWC.

    Args:
        images: (B, 3, H, W) on the network's device, on which it is tried in NHWC; without them it is not.
        tell: told why NHWC was asked for in vain.
    """
    if not channels_last or _breaks(net):
        return torch.contiguous_format
    if images is not None and (why := why_not_nhwc(net, images)) is not None:
        tell(f"trained in NCHW: the network does not run in NHWC ({why}); train.channels_last: false asks for NCHW")
        return torch.contiguous_format
    return torch.channels_last


def _breaks(net: nn.Module) -> bool:
    """Would its gradient in NHWC write beyond its memory? A fault of oneDNN on CPUs (its issue 6035).

    Strided 1x1 convolutions of fewer channels than a vector holds get wrong gradients of their kernels, or end the process:
    seen with torch 2.13 on AVX2 at 2 to 7 channels, not at 9 or more. Pruning without steps makes such.
    """
    if torch.cuda.is_available():
        return False
    block = 16 if "AVX512" in torch.backends.cpu.get_cpu_capability() else 8
    return any(
        isinstance(m, nn.Conv2d)
        and m.kernel_size == (1, 1)
        and m.stride != (1, 1)
        and m.in_channels // m.groups < block
        for m in net.modules()
    )


def why_not_nhwc(net: nn.Module, images: torch.Tensor) -> str | None:
    """Why `net` cannot be trained on `images` (B, 3, H, W) laid out as NHWC, though it can as NCHW; None where it can.

    `view` of a map as a row fails where channels come last; what reads strides itself answers otherwise. Tried on a copy without
    hooks, so that whatever watches the network sees nothing of it; only the choice of the output that ships is kept.

    Raises:
        MemoryError, torch.OutOfMemoryError, RuntimeError: memory runs out, which says nothing about either layout.
    """
    if _breaks(net):  # it is trained in NCHW in any case, and the trial itself would write beyond its memory
        return None
    try:
        tried = copy.deepcopy(net)
    except Exception:  # whoever has to copy it says so
        return None
    for module in nn.Module.modules(tried):
        for key in [k for k, hook in module._forward_hooks.items() if not isinstance(hook, Choice)]:
            del module._forward_hooks[key]
        module._forward_pre_hooks.clear()
    with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
        try:
            plain = _answered(lie(tried, torch.contiguous_format), images)
        except Exception as error:  # in no layout
            _no_memory(error)
            return None
        laid = images.to(memory_format=torch.channels_last)
        try:
            found = _answered(lie(tried, torch.channels_last), laid)
            _learnt(tried, laid)
        except Exception as error:
            _no_memory(error)
            try:
                _learnt(lie(tried, torch.contiguous_format), images)
            except Exception as other:
                _no_memory(other)
                return None
            return f"{type(error).__name__}: {first_line(error)[:160]}"
    worst = farthest(found, plain)
    return None if worst <= _ALIKE else f"its answers differ by {worst:.0e} of the largest"


def runs_in_nhwc(net: nn.Module, images: torch.Tensor) -> bool:
    """Whether there is no reason against it (`why_not_nhwc`); tried once a network and kept."""
    if net not in _tried:
        _tried[net] = why_not_nhwc(net, images) is None
    return _tried[net]


def _no_memory(error: Exception) -> None:
    """Raise it again where memory ran out; on a CPU, torch says so by a plain RuntimeError."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(s in str(error) for s in _TOLD):
        raise error


def _answered(net: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    net.eval()
    with torch.no_grad():
        return floats(net(images))


def _learnt(net: nn.Module, images: torch.Tensor) -> None:
    net.train()
    torch.stack([t.float().square().mean() for t in floats(net(images))]).sum().backward()


def lie(net: nn.Module, layout: torch.memory_format) -> nn.Module:
    """Lay the kernels of the convolutions of `net` out so, in place; what else has four axes (a table, a scale) stays as it is."""
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            for kernel in module.parameters(recurse=False):
                if kernel.ndim == 4:
                    kernel.data = kernel.data.to(memory_format=layout)
    return net


@contextlib.contextmanager
def checkpointed(net: nn.Module, on: bool = True) -> Iterator[None]:
    """In here, training keeps only what enters each stage's blocks and computes their insides again for the gradient.

    A block is a member of an `nn.Sequential` that has at least two convolutions or linear layers below it, the outermost
    such: a residual block, an inverted bottleneck, an encoder's stage. Norms take their running statistics from the first
    pass alone; dropout draws the same in both. The weights that come out are those without it (Chen et al., 2016).
    """
    blocks = list(_blocks(net)) if on else []
    for block in blocks:
        block.forward = partial(_again, block, block.forward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(module, nn.Sequential) and not isinstance(child, nn.Sequential) and _layers(child) >= 2:
            yield child
        else:
            yield from _blocks(child)


def _layers(module: nn.Module) -> int:
    return sum(isinstance(m, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)) for m in module.modules())


def _again(block: nn.Module, forward: Any, *args: Any, **kwargs: Any) -> Any:
    if not (block.training and torch.is_grad_enabled()):
        return forward(*args, **kwargs)
    return checkpoint(
        forward, *args, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), _still(block)), **kwargs
    )


@contextlib.contextmanager
def _still(block: nn.Module) -> Iterator[None]:
    """The norms' running statistics do not move."""
    norms = [m for m in block.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    kept = [(m.momentum, m.num_batches_tracked.clone() if m.num_batches_tracked is not None else None) for m in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum = momentum
            if count is not None and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.copy_(count)
