"""Can the network be built as the recipe says, and does all of it fit into this machine's memory? A kernel ends processes that grow
too large without a word."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgeprune.errors import RecipeError, first_line
from edgeprune.models import NETWORKS
from edgeprune.recipe import DRAWN, Recipe, Train

_FLOAT = 4  # bytes
_OF_INPUT = 1000  # no network keeps more than so many times the bytes of its images
_KEPT = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)  # a norm behind each keeps what it gives for the gradient


def check_sizes(recipe: Recipe, *, trains_here: bool = True) -> None:
    """Refuse what takes more memory than there is, by what surely has to be held at the same time.

    Args:
        trains_here: also count what a CPU's training keeps for the gradient; of GPUs, PyTorch itself tells.

    Raises:
        RecipeError: names the key, and gives the figure; or the network cannot be built.
    """
    have, net = memory(), None
    if recipe.model.network is not None:
        net = outline(recipe.model.network, json.dumps(recipe.model.args, sort_keys=True))
        count = sum(p.numel() for p in net.parameters())
        weights = 3 * count * _FLOAT  # with gradients and momentum
        _refuse("model.args", f"a network of {count:,} weights with their gradients and momentum", weights, have)
    counted = trains_here and not torch.cuda.is_available()
    for name, schedule in _schedules(recipe):
        high, wide = schedule.augment.crop or recipe.data.size
        each = high * wide * (3 * _FLOAT + (1 if recipe.task == "segmentation" else 0))
        few = schedule.checkpoint_blocks or schedule.batch * each * _OF_INPUT <= have
        if counted and net is not None and not few:
            each += _kept(net, (high, wide)) // (1 if schedule.autocast == "none" else 2)
        what = f"training on {schedule.batch:,} images of {high}x{wide} at a time"
        _refuse(f"{name}.batch", what, schedule.batch * each, have, f"; about {have // each:,} would fit")
    evaluated = recipe.data.evaluate and recipe.data.evaluate.short_side
    for key, side in (("train_short_side", recipe.data.train_short_side), ("evaluate.short_side", evaluated)):
        if side is not None:
            _refuse(f"data.{key}", f"an image of {side}x{side}", side * side * 3 * _FLOAT, have)
    if recipe.data.name in DRAWN:
        _drawn(recipe, have)


@functools.lru_cache(maxsize=8)
def outline(network: str, args: str) -> nn.Module:
    """A network of ours, for two classes and without memory for its weights.

    Args:
        args: as JSON.

    Raises:
        RecipeError: it cannot be built so.
    """
    try:
        with torch.device("meta"):
            return NETWORKS[network](classes=2, **json.loads(args))
    except Exception as error:  # whatever a constructor meets in values that no one has tried
        raise RecipeError(f"model.args: {network} cannot be built of {args}: {first_line(error)}") from error


def memory() -> int:
    """Bytes that this process may take: the machine's, with swap, or the control group's where that is less."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = dict(t.split(":", 1) for t in Path("/proc/meminfo").read_text().splitlines())
        found = [sum(int(lines[name].split()[0]) * 1024 for name in ("MemTotal", "SwapTotal"))]
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            found.append(int(Path(limit).read_text()))
    return min(found)


def _refuse(key: str, what: str, need: int, have: int, more: str = "") -> None:
    if need > have:
        raise RecipeError(f"{key}: {what} takes at least {_gb(need)} of memory, and this machine has {_gb(have)}{more}")


def _gb(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count < 1e14 else f"{count / 1e12:,.0f} TB"


def _schedules(recipe: Recipe) -> Iterator[tuple[str, Train]]:
    found = [("train", recipe.train), ("prune.sparsity", recipe.prune.sparsity), ("finetune", recipe.finetune)]
    for n, r in enumerate(recipe.prune.rounds):
        found += [(f"prune.rounds.{n}.sparsity", r.sparsity), (f"prune.rounds.{n}.finetune", r.finetune)]
    yield from ((name, schedule) for name, schedule in found if schedule is not None)


def _kept(net: nn.Module, size: tuple[int, int]) -> int:
    """Bytes an image that a training step keeps for the gradient, at the least; 0 where that cannot be told."""
    count = 0

    def add(module: nn.Module, args: Any, output: torch.Tensor) -> None:
        nonlocal count
        count += output.numel() * _FLOAT

    hooks = [m.register_forward_hook(add) for m in net.modules() if isinstance(m, _KEPT)]
    try:
        with torch.no_grad(), torch.device("meta"):
            net.train()(torch.empty(2, 3, *size))
    except Exception:  # an operator without shapes; the run will tell
        count = 0
    finally:
        for hook in hooks:
            hook.remove()
    return count // 2


def _drawn(recipe: Recipe, have: int) -> None:
    """Drawn pictures stay in memory."""
    high, wide = recipe.data.size
    for split, limit in (("train", recipe.data.train_images), ("val", recipe.data.val_images)):
        count = recipe.data.args.get(split, 0)
        what = f"{count:,} drawn pictures of {high}x{wide}"
        need = min(count, limit or count) * high * wide * (4 if recipe.task == "segmentation" else 3)
        _refuse(f"data.args.{split}", what, need, have)
