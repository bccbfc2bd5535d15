"""What of a layer's loss a short fine-tuning brings back: the sensitivity that counts is the one that stays."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from torch import nn

from edgeprune import models
from edgeprune.data.loader import Batch
from edgeprune.errors import EdgepruneError
from edgeprune.files import hash_obj, read_json, write_json
from edgeprune.progress import Progress
from edgeprune.prune import worth
from edgeprune.prune.allocate import Scores, select
from edgeprune.prune.channels import ChannelGraph
from edgeprune.prune.plan import make_plan
from edgeprune.prune.surgery import fold_constants
from edgeprune.recipe import Finetune
from edgeprune.stages import load
from edgeprune.stages.run import Run
from edgeprune.train.loop import fingerprint, total_steps
from edgeprune.train.memory import image_layout, lie

AT = 0.5  # the share that each group is cut to
MOST, LEAST = 30, 8  # optimiser steps a group; fewer than the least say nothing
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.bfloat16}  # no loss scaling here


def steps_each(run: Run, groups: int) -> int:
    """Optimiser steps a group: the recipe's, or as many that all groups train half as long as the fine-tuning at most."""
    asked, cfg = run.recipe.prune.recovery_steps, run.recipe.finetune
    if asked is not None:
        return asked
    after = total_steps(cfg, load.batches(run, cfg, 0).per_epoch / cfg.accumulate)
    steps = min(MOST, after // (2 * (groups + 1)))
    return steps if steps >= LEAST else 0


def recovered(
    run: Run,
    net: nn.Module,
    graph: ChannelGraph,
    scores: Scores,
    yard: worth.Yardstick,
    found: worth.Losses,
    steps: int,
) -> worth.Losses:
    """The curves of `found`, each scaled to what stays of its loss after `steps` of distillation from the dense network.

    Every group is cut alone to half of its width and trained on the same batches with the fine-tuning's optimiser rate,
    falling to zero; the network that nothing was cut from is trained, too, and its drift taken off. Layers whose loss
    heals (often the widest, late ones, which feed the head) become cheap, those whose loss stays (early ones) dear. The
    idea of judging after a short fine-tuning is NetAdapt's (Yang et al., ECCV 2018); one factor a group is ours.
    A killed measurement goes on with the next group (`prune/recovery.json`).
    """
    home, whole = run.folder / "prune" / "recovery.json", graph.widths()
    cfg = run.recipe.finetune
    key = hash_obj([fingerprint(net), steps, cfg.model_dump(mode="json"), run.recipe.seed, _hash(scores)])
    stays = _kept(home, key)
    batches = load.batches(run, cfg, run.recipe.seed + 2)
    with Progress("recovery", steps * (len(graph.groups) + 1), steps * len(stays), unit="steps") as bar:
        for name in ["", *whole]:
            if name in stays:
                continue
            widths = dict(whole)
            if name:
                widths[name] = max(1, round(AT * whole[name]))
            example = load.example(run)
            cut, _ = fold_constants(net.cpu(), graph, make_plan(net, graph, select(scores, widths)), example)
            _teach(cut.to(yard.device), net.to(yard.device), batches.stream(), steps, cfg, bar)
            yard.settle(cut)
            stays[name] = yard.loss(cut.eval())
            write_json(home, {"key": key, "loss": stays})
    kept = {n: max(1, round(AT * s)) for n, s in whole.items()}
    factors = {n: _share(stays[n] - stays[""], found.curves[n][kept[n]]) for n in whole if kept[n] < whole[n]}
    return replace(
        found, curves={n: {k: v * factors.get(n, 1.0) for k, v in curve.items()} for n, curve in found.curves.items()}
    )


def _share(after: float, before: float) -> float:
    """Between a fiftieth (the measurement's noise) and the whole."""
    return min(1.0, max(0.02, after / before)) if before > 0 else 1.0


def _teach(cut: nn.Module, net: nn.Module, stream: Iterator[Batch], steps: int, cfg: Finetune, bar: Progress) -> None:
    """`steps` of AdamW on the KL divergence from `net`'s softmax, rates falling to zero."""
    layout, device = image_layout(cfg.channels_last), next(net.parameters()).device
    lie(cut, layout).train()
    lie(net, layout).eval()
    rate = cfg.lr if cfg.optimizer == "adamw" else 1e-3
    optimizer = torch.optim.AdamW(cut.parameters(), lr=rate / 2, weight_decay=0.0)
    cast = torch.autocast(device.type, _DTYPES[cfg.autocast]) if cfg.autocast in _DTYPES else nullcontext()
    for step, (images, _) in enumerate(islice(stream, steps)):
        for group in optimizer.param_groups:
            group["lr"] = rate / 2 * (1 - step / steps)
        images = images.to(device, memory_format=layout)
        with cast:
            with torch.no_grad():
                taught = models.logits_of(net(images))
            answer = models.logits_of(cut(images))
        loss = worth.divergence(taught.float().log_softmax(1), answer.float())
        if not math.isfinite(float(loss.detach())):
            raise EdgepruneError(
                f"recovery: the loss is {float(loss.detach())} at step {step}; prune.recovery_steps: 0 leaves it out"
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        bar.advance(float(loss.detach()))
    lie(cut, torch.contiguous_format)
    lie(net, torch.contiguous_format)


def _kept(home: Path, key: str) -> dict[str, float]:
    """What a killed measurement of the same kind left."""
    try:
        content = read_json(home)
    except EdgepruneError:
        return {}
    return content["loss"] if isinstance(content, dict) and content.get("key") == key else {}


def _hash(scores: Scores) -> str:
    return hash_obj({n: s.tolist() for n, s in scores.items()})
