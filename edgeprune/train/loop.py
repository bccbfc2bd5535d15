"""The training loop: any number of processes (accelerate), mixed precision, checkpoints that resume exactly.

Everything random is a function of (seed, step), so a run that was killed and goes on ends with the same weights.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgeprune.devices.lease import give_way
from edgeprune.errors import EdgepruneError
from edgeprune.files import hash_obj, replace_with, write_json
from edgeprune.models.state import load_unsaved, load_weights, tensors_of, unchanged, unsaved_of, weights_of
from edgeprune.progress import Progress
from edgeprune.train.average import Average
from edgeprune.train.losses import Loss
from edgeprune.train.memory import checkpointed, image_layout, lie
from edgeprune.train.norms import synced

Term = Callable[[torch.Tensor, Any, torch.Tensor], torch.Tensor]
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Hooks:
    """What others add to the loop: each may be left out."""

    distill: Callable[[nn.Module, torch.device, torch.memory_format], tuple[Term, Callable[[], None]]] | None = (
        None  # student, device, layout -> (images, output, labels) -> added loss; and what ends it
    )
    before_step: Callable[[int, int, float], None] | None = None  # step, steps, steps an epoch; such as a temperature
    term: Term | None = None  # (loss, output, labels) -> added loss
    after_backward: Callable[[], None] | None = None  # may change gradients, such as CAP's sparsity term
    state: Callable[[], dict[str, Any]] | None = None  # what the hooks have gathered; it is kept in the checkpoint
    load_state: Callable[[dict[str, Any]], None] | None = None
    evaluate: Callable[[nn.Module], float] | None = None  # the task's metric, 0 to 1
    metric: str = "mIoU"  # its name
    history: list[dict[str, float]] = field(default_factory=list)


def train(
    net: nn.Module,
    batches: Any,
    cfg: Any,
    home: Path,
    *,
    loss: Loss,
    seed: int,
    title: str,
    hooks: Hooks,
    context: str = "",
) -> None:
    """Train `net` in place by the schedule `cfg` (`recipe.Train`) on `batches` (`data.loader.Batches`).

    `loss` takes the network's output, the batch's labels and, where they are balanced, its drawn classes. Writes `home/checkpoint.pt` every `cfg.checkpoint_every` steps
    and `home/history.json` at the end; a checkpoint of the same schedule, start weights and `context` (whatever else the
    outcome hangs on: data, a criterion's switches) is gone on from.

    Raises:
        EdgepruneError: the loss is NaN or infinite.
    """
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, broadcast

    # a backbone may carry a classifier that nobody calls: alone it simply gets no gradient
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[unused])
    per_epoch = batches.per_epoch / (cfg.accumulate * accelerator.num_processes)  # optimiser steps
    steps = total_steps(cfg, per_epoch)
    net.train()  # weights and their averages are those of training mode
    key = hash_obj(
        [cfg.model_dump(mode="json", exclude={"checkpoint_every", "val_every"}), seed, steps, context, fingerprint(net)]
    )
    kept = _read(home / "checkpoint.pt", key)
    step = 0 if kept is None else int(kept["step"])
    stream = batches.stream(step * cfg.accumulate, accelerator.process_index, accelerator.num_processes)
    first = next(stream)
    stream = chain([first], stream)
    told: list[str] = []
    layout = _common_layout(cfg.channels_last, net.to(accelerator.device), first[0][:2], told.append)
    wrapped, optimizer = accelerator.prepare(lie(net, layout), _optimizer(net, cfg))
    scaler = torch.amp.GradScaler(accelerator.device.type, enabled=cfg.autocast == "fp16")
    ema = None if cfg.ema is None else Average(net, cfg.ema)
    state = _State(home / "checkpoint.pt", key, net, optimizer, scaler, ema, hooks)
    if kept is not None:
        state.restore(kept)
    del kept
    term, end = hooks.distill(net, accelerator.device, layout) if hooks.distill else (None, None)
    bar = Progress(title, steps, step, quiet=not accelerator.is_main_process)
    with bar, synced(net, accelerator.num_processes), checkpointed(net, cfg.checkpoint_blocks):
        for line in told:
            bar.say(line)
        while step < steps:
            give_way()
            rate = learning_rate(cfg, step, steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            torch.manual_seed(int(np.random.SeedSequence([seed, 2, step]).generate_state(1)[0]))  # dropout
            wrapped.train()
            if hooks.before_step:
                hooks.before_step(step, steps, per_epoch)
            mean = 0.0
            for _ in range(cfg.accumulate):
                images, labels, *drawn = (t.to(accelerator.device) for t in next(stream))
                images = images.to(memory_format=layout)
                with _autocast(cfg.autocast, accelerator.device.type):
                    output = wrapped(images)
                    value = loss(output, labels, *drawn)
                    if term is not None:
                        value = value + term(images, output, labels)
                    if hooks.term:
                        value = value + hooks.term(value, output, labels)
                mean += float(value.detach()) / cfg.accumulate
                accelerator.backward(scaler.scale(value / cfg.accumulate))
            mean = _mean(mean)
            if not math.isfinite(mean):
                raise EdgepruneError(f"{title}: the loss is {mean} at step {step}; lower lr or set clip_grad")
            scaler.unscale_(optimizer)
            if hooks.after_backward:
                hooks.after_backward()
            if cfg.clip_grad:
                accelerator.clip_grad_norm_(net.parameters(), cfg.clip_grad)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            if ema is not None:
                ema.update(net)
            step += 1
            note = {"step": step, "loss": mean, "lr": rate}
            if (
                _due(cfg.val_every and max(1, round(cfg.val_every * per_epoch)), step)
                and step < steps
                and hooks.evaluate
            ):
                judged = net if ema is None else ema.module  # what the training will give
                with unchanged(judged):
                    note["score"] = hooks.evaluate(judged)
                bar.say(f"step {step}: {hooks.metric} {100 * note['score']:.2f}")
            hooks.history.append(note)
            bar.advance(mean)
            if _due(cfg.checkpoint_every, step) and step < steps:
                held = hooks.state() if hooks.state else None  # all processes may have a part in it
                if accelerator.is_main_process:
                    state.save(step, held)
    accelerator.wait_for_everyone()
    if end:
        end()
    if ema is not None:
        load_weights(net, weights_of(ema.module))
    for value in tensors_of(net).values():  # to the last bit, whatever the backend's sums did
        broadcast(value)
    lie(net.cpu(), torch.contiguous_format).eval()
    if accelerator.is_main_process:
        write_json(home / "history.json", hooks.history)


def total_steps(cfg: Any, per_epoch: float) -> int:
    """Optimiser steps of a schedule; `per_epoch` of them see every image once."""
    return cfg.steps or max(1, math.ceil(cfg.epochs * per_epoch))


def learning_rate(cfg: Any, step: int, steps: int) -> float:
    """The rate of a step: linear warm-up, then poly, cosine or constant over what is left.

    Of a schedule that was made shorter than its warm-up, the first half warms up.
    """
    warm = min(cfg.warmup_steps, steps // 2)
    if step < warm:
        return cfg.lr * (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    if cfg.schedule == "poly":
        return cfg.lr * (1 - done) ** cfg.power
    return cfg.lr * 0.5 * (1 + math.cos(math.pi * done)) if cfg.schedule == "cosine" else cfg.lr


def fingerprint(net: nn.Module) -> str:
    """Hash of all weights."""
    digest = hashlib.sha256()
    for name, value in tensors_of(net).items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _optimizer(net: nn.Module, cfg: Any) -> torch.optim.Optimizer:
    """Weight decay on matrices and kernels only, not on norms' scales and biases."""
    moving = [p for p in net.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in moving if p.ndim > 1], "weight_decay": cfg.weight_decay},
        {"params": [p for p in moving if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if cfg.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=cfg.lr)
    return torch.optim.SGD(groups, lr=cfg.lr, momentum=cfg.momentum, nesterov=cfg.nesterov and cfg.momentum > 0)


def _autocast(kind: str, device: str) -> Any:
    return contextlib.nullcontext() if kind == "none" else torch.autocast(device, _DTYPES[kind])


def _common_layout(
    channels_last: bool, net: nn.Module, images: torch.Tensor, tell: Callable[[str], None]
) -> torch.memory_format:
    """The main process decides for all: gradients and weights are exchanged as they lie in memory."""
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    found = [False]
    if PartialState().is_main_process:
        images = images.to(next(net.parameters()).device)
        found = [image_layout(channels_last, net, images, tell) == torch.channels_last]
    broadcast_object_list(found)
    return torch.channels_last if found[0] else torch.contiguous_format


def _mean(loss: float) -> float:
    """Over the processes; the same in each, so that all stop alike."""
    from accelerate.utils import gather_object

    return float(np.mean(gather_object([loss])))


def _due(every: int, step: int) -> bool:
    return bool(every) and step % every == 0


@dataclass
class _State:
    """What a killed run goes on from."""

    path: Path
    key: str
    net: nn.Module
    optimizer: Any
    scaler: Any
    ema: Average | None
    hooks: Hooks

    def save(self, step: int, held: Any) -> None:
        content = {
            "key": self.key,
            "step": step,
            "net": tensors_of(self.net),
            "unsaved": unsaved_of(self.net),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": self.ema.state_dict() if self.ema is not None else None,
            "hooks": held,
            "history": self.hooks.history,
        }
        replace_with(self.path, lambda beside: torch.save(content, beside))

    def restore(self, content: dict[str, Any]) -> None:
        """Put back what `save` kept."""
        load_weights(self.net, content["net"])
        load_unsaved(self.net, content.get("unsaved", {}))
        self.optimizer.load_state_dict(content["optimizer"])
        self.scaler.load_state_dict(content["scaler"])
        if self.ema is not None:
            self.ema.load_state_dict(content["ema"])
        if self.hooks.load_state:
            self.hooks.load_state(content["hooks"])
        self.hooks.history.extend(content["history"])


def _read(path: Path, key: str) -> dict[str, Any] | None:
    """What `_State.save` kept; None where there is no checkpoint of this very run."""
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # cut off or foreign: it is only a shortcut, so begin anew
        return None
    return content if isinstance(content, dict) and content.get("key") == key else None
