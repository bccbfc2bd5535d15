"""A short training on the dense network's answers alone: how well does a pruned network heal?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from torch import nn

from edgeprune.data.loader import Batch
from edgeprune.devices.lease import give_way
from edgeprune.errors import EdgepruneError
from edgeprune.models import logits_of
from edgeprune.train.distill import logits_loss
from edgeprune.train.memory import image_layout, lie, runs_in_nhwc

_RATE = 1e-3  # of AdamW where the schedule's optimiser is another, whose rates mean something else


def imitate(
    student: nn.Module,
    teacher: nn.Module,
    batches: Iterator[Batch],
    steps: int,
    cfg: Any,
    apart: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = logits_loss,
    tick: Callable[[float], None] = lambda loss: None,
    gentle: float = 1.0,
) -> float:
    """Train `student` in place for `steps` of AdamW, rates falling to zero, on how far it is from `teacher`.

    Args:
        cfg: a schedule (`recipe.Train`): its rate, mixed precision and layout.
        apart: the student's answer, the teacher's -> how far they are apart; KL divergence of softmax, nats a pixel.
        tick: told of each step's loss.
        gentle: the first rate, as a share of the schedule's.

    Returns:
        The mean loss of the last third of steps; every batch was new, so it is no memory of them.

    Raises:
        EdgepruneError: the loss is NaN or infinite.
    """
    device = next(teacher.parameters()).device
    first = next(batches)
    # the student has the teacher's operators, and many students have one teacher
    nhwc = cfg.channels_last and runs_in_nhwc(teacher, first[0][:2].to(device))
    layout = image_layout(nhwc, student.to(device))
    lie(student, layout).train()
    lie(teacher, layout).eval()
    peak = gentle * (cfg.lr if cfg.optimizer == "adamw" else _RATE)
    optimizer = torch.optim.AdamW(student.parameters(), lr=peak, weight_decay=0.0)
    cast = torch.autocast(device.type, torch.bfloat16) if cfg.autocast != "none" else nullcontext()
    losses = []
    for step, (images, *_) in enumerate(islice(chain([first], batches), steps)):
        give_way()
        torch.manual_seed(step)  # dropout: a run that goes on finds what one that was not killed would have found
        for group in optimizer.param_groups:
            group["lr"] = peak * (1 - step / steps)
        images = images.to(device, memory_format=layout)
        with cast:
            with torch.no_grad():
                taught = logits_of(teacher(images))
            answer = logits_of(student(images))
        loss = apart(answer, taught)
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise EdgepruneError(f"the loss of a short recovery is {losses[-1]} at step {step}; lower finetune.lr")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tick(losses[-1])
    lie(student, torch.contiguous_format)
    lie(teacher, torch.contiguous_format)
    return float(np.mean(losses[-max(1, steps // 3) :]))
