"""MACs and parameters of a network, counted by fvcore (one multiply-add is one)."""

from __future__ import annotations

import logging
import math
import warnings
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from fvcore.nn import FlopCountAnalysis
from torch import nn

from edgeprune.models import logits_of
from edgeprune.models.modes import evaluating


class _Out(nn.Module):
    """Only what ships: the main logits, without auxiliary heads."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.training = net, net.training

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return logits_of(self.net(x))


def count_macs(net: nn.Module, size: tuple[int, int]) -> int:
    """MACs of one image of `size` (H, W), what ships: without auxiliary heads."""
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    logging.getLogger("fvcore.nn.jit_analysis").setLevel(logging.ERROR)
    device = next(net.parameters()).device
    with evaluating(net):
        return _counted(net, torch.zeros(1, 3, *size, device=device))


def _counted(net: nn.Module, image: torch.Tensor) -> int:
    count = FlopCountAnalysis(_Out(net), image)
    count.set_op_handle("aten::scaled_dot_product_attention", _attention)
    count.set_op_handle("aten::_convolution_mode", _conv_by_name)
    count.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    with mock.patch.object(F, "max_unpool2d", _unpool):
        return int(count.total())


def _attention(inputs: list[Any], outputs: list[Any]) -> int:
    """fvcore knows no fused attention and would count nothing: its two products."""
    query, key, value = (tuple(x.type().sizes()) for x in inputs[:3])
    return int(math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1]))


def _conv_by_name(inputs: list[Any], outputs: list[Any]) -> int:
    """fvcore counts nothing for a convolution whose padding has a name ("same")."""
    weight, made = inputs[1].type().sizes(), outputs[0].type().sizes()
    return int(math.prod(made) * math.prod(weight[1:]))


def _unpool(
    x: torch.Tensor, indices: torch.Tensor, kernel: Any, stride: Any = None, padding: Any = 0, output_size: Any = None
) -> torch.Tensor:
    """torch 2.13's own `max_unpool2d` checks its sizes in a way that fvcore's tracer cannot pass."""
    if output_size is None:
        step = stride or kernel
        steps = step if isinstance(step, (tuple, list)) else (step, step)
        output_size = [int(n) * int(s) for n, s in zip(x.shape[-2:], steps, strict=True)]
    return torch.ops.aten.max_unpool2d(x, indices, [int(n) for n in output_size[-2:]])


def count_params(net: nn.Module, size: tuple[int, int]) -> int:
    """Number of parameters that the main logits of an image of `size` (H, W) hang on: what ships, without auxiliary heads."""
    parameters = list(net.parameters())
    frozen = [p for p in parameters if not p.requires_grad and (p.is_floating_point() or p.is_complex())]
    for p in frozen:
        p.requires_grad_(True)
    try:
        with evaluating(net), torch.enable_grad():
            output = logits_of(net(torch.zeros(1, 3, *size, device=parameters[0].device)))
    finally:
        for p in frozen:
            p.requires_grad_(False)
    seen, todo = set(), [output.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [source for source, _ in node.next_functions]
    reached = {id(node.variable) for node in seen if hasattr(node, "variable")}
    return sum(p.numel() for p in parameters if id(p) in reached)
