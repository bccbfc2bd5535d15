"""Several processes: statistics that each gathered from its own batches become one."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist


def averaged(content: Any) -> Any:
    """Tensors of a nest of dicts, averaged over the processes (keys in order); as they are in a single process."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return content
    if isinstance(content, dict):
        return {key: averaged(content[key]) for key in sorted(content)}
    if isinstance(content, torch.Tensor) and content.is_floating_point():
        where = torch.device("cuda") if dist.get_backend() == "nccl" else content.device
        total = content.detach().clone().to(where)
        dist.all_reduce(total)
        return (total / dist.get_world_size()).to(content.device)
    return content
