"""Batch norms over all processes, so that several small batches train as one large batch does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

import torch
from torch import nn
from torch.distributed.nn.functional import all_reduce


@contextlib.contextmanager
def synced(net: nn.Module, processes: int) -> Iterator[None]:
    """In here the batch norms of `net`, in training, take mean and variance over the batches of all processes.

    On GPUs by PyTorch's own `SyncBatchNorm`, on CPUs (which it refuses) by the same in all-reduces. The modules, their hooks,
    weights and buffers stay the same ones.
    """
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)] if processes > 1 else []
    for norm in norms:
        gpu = norm.weight is not None and norm.weight.is_cuda
        other = nn.SyncBatchNorm.convert_sync_batchnorm(norm) if gpu else _Together(norm)
        norm.forward = partial(_through, norm, other)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _through(norm: nn.BatchNorm2d, other: nn.Module, input: torch.Tensor) -> torch.Tensor:
    other.training = norm.training
    setattr(other, "momentum", norm.momentum)  # noqa: B010
    return other(input)


class _Together(nn.BatchNorm2d):
    """A batch norm on the same parameters and buffers as `norm`, over all processes' batches."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(input)
        x = input.float()
        count = all_reduce(x.new_tensor([x.numel() / x.shape[1]]))
        mean = all_reduce(x.sum((0, 2, 3))) / count
        centred = x - mean[None, :, None, None]
        var = all_reduce(centred.square().sum((0, 2, 3))) / count
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                self.num_batches_tracked += 1
                share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
                self.running_mean.lerp_(mean, share)
                self.running_var.lerp_(var * count / (count - 1), share)
        normal = centred * (var + self.eps).rsqrt()[None, :, None, None]
        if self.weight is not None:
            normal = normal * self.weight[None, :, None, None] + self.bias[None, :, None, None]
        return normal.to(input.dtype)
