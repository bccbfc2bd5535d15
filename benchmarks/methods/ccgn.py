"""CCGN, the dynamic method, on streets: mIoU and the average MACs that an ideal executor would do.

python benchmarks/methods/ccgn.py [--steps 1500] [--l0 0.5] [--recipe quickstart] [--set data.size=[96,192]] [--out FILE]

Trains the recipe's network from scratch with its gates and by its own schedule (`train`), then judges it on the validation
images. A static engine runs all channels of such a network and profits nothing; the table says so, too. A training that was
killed goes on when the same command is given again (--home). What the gates cost in training is measured on the trained network, by some
steps with and without them.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgeprune import progress
from edgeprune.data.loader import Batches, train_loader
from edgeprune.data.transforms import normalised
from edgeprune.files import hash_obj
from edgeprune.prune import cost
from edgeprune.prune.channels import ChannelGraph
from edgeprune.prune.groups import find_groups
from edgeprune.recipe import load_recipe
from edgeprune.stages import load
from edgeprune.stages.run import Run
from edgeprune.target import load_target
from edgeprune.train.ccgn import Gating, Place
from edgeprune.train.loop import Hooks, train
from edgeprune.train.losses import Loss


def places(net: nn.Module, graph: ChannelGraph) -> list[Place]:
    """Groups that are the whole output of one convolution with a norm, in order."""
    found = []
    for g in graph.groups:
        outs, norms = ([m for m in g.members if m.kind == kind] for kind in ("out", "norm"))
        if len(outs) != 1 or len(norms) != 1 or not isinstance(net.get_submodule(outs[0].module), nn.Conv2d):
            continue
        if np.array_equal(outs[0].index, np.arange(net.get_submodule(outs[0].module).out_channels)):
            found.append(Place(g.name, outs[0].module, norms[0].module, g.size))
    return found


def average_macs(run: Run, net: nn.Module, gating: Gating, graph: ChannelGraph, size: int = 8) -> float:
    """Mean over the validation images of the MACs with each image's own open channels, gates included."""
    price, dense, data = cost.total(cost.macs(graph)), graph.widths(), load.dataset(run, "val")
    found = []
    for first in range(0, len(data), size):
        images = np.stack([data[i][0] for i in range(first, min(first + size, len(data)))])
        with torch.no_grad():
            net.eval()(normalised(images))
        found += [price({**dense, **open_}) + gating.macs() for open_ in gating.widths()]
    return float(np.mean(found))


def seconds_a_step(net: nn.Module, batches: Batches, loss: Loss, hooks: Hooks, count: int = 5) -> float:
    """Median of forward and backward passes in training mode; statistics and gradients of `net` are spoilt."""
    took = []
    stream = batches.stream()
    for step in range(count + 1):
        images, labels = next(stream)
        started = time.perf_counter()
        if hooks.before_step:
            hooks.before_step(step, count, 1.0)
        output = net.train()(images)
        value = loss(output, labels)
        (value + hooks.term(value, output, labels) if hooks.term else value).backward()
        took.append(time.perf_counter() - started)
    return float(np.median(took[1:]))


def main() -> None:
    """Train, judge, print, keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipe", default="quickstart")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--l0", type=float, default=0.5)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--home", type=Path, default=Path("runs/ccgn"), help="where the training keeps its checkpoint")
    parser.add_argument("--out", type=Path, help="default: beside this file, with the date")
    given = parser.parse_args()
    recipe = load_recipe(given.recipe, [f"train.steps={given.steps}", *given.set])
    assert recipe.train is not None
    settings = hash_obj([recipe.model_dump(mode="json"), given.l0])[:8]
    run = Run(recipe, load_target("cpu"), given.home / f"{recipe.name}-{settings}", progress.console(quiet=True))
    torch.manual_seed(recipe.seed)
    plain, data = load.build(run), load.dataset(run, "train")
    net = copy.deepcopy(plain)
    graph = find_groups(net, load.example(run))
    gating = Gating(net, places(net, graph), l0=given.l0)
    hooks = Hooks(before_step=gating.before_step, term=gating.term)
    batches = train_loader(data, recipe.train, recipe.seed, recipe.data.workers)
    loss = load.task(run).loss(recipe.train.loss, data)
    started = time.perf_counter()
    train(
        net, batches, recipe.train, run.folder, loss=loss, seed=recipe.seed, title="ccgn", hooks=hooks, context=settings
    )
    seconds, inside = time.perf_counter() - started, gating.seconds
    dense = cost.total(cost.macs(graph))(graph.widths())
    row = {
        "recipe": recipe.name, "steps": given.steps, "l0": given.l0, "input": list(recipe.data.size),
        "gated_groups": len(gating.places), "groups": len(graph.groups), "miou": load.score(run, net).miou,
        "average_macs": average_macs(run, net, gating, graph), "dense_macs": dense, "training_seconds": seconds,
        "gate_seconds": inside,
        "step_against_plain": seconds_a_step(net, batches, loss, hooks) / seconds_a_step(plain, batches, loss, Hooks()),
    }  # fmt: skip
    print(
        f"CCGN on {recipe.name}: mIoU {100 * row['miou']:.2f}, average MACs {row['average_macs'] / 1e6:.1f} M of "
        f"{dense / 1e6:.1f} M ({row['average_macs'] / dense:.3f}x), {row['gated_groups']} of {row['groups']} groups gated"
    )
    print(
        f"training: {given.steps} steps, {seconds:.0f} s in this process, {inside:.1f} s of them in the gates' forward passes and "
        f"loss; a step takes {row['step_against_plain']:.2f} times a plain one"
    )
    print(
        "a static engine computes every channel of it: its latency is the dense network's (1.000x of the MACs, and the gates)"
    )
    result = {"date": date.today().isoformat(), "machine": platform.processor() or platform.machine(), **row}
    out = given.out or Path(__file__).with_name(f"ccgn-{result['date']}.json")
    out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
