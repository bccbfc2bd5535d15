"""The networks of the latency benchmarks, with random weights: these are figures about time, not about accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from edgeprune import models, progress
from edgeprune.files import save_tensors
from edgeprune.prune.criteria import CRITERIA
from edgeprune.prune.groups import find_groups
from edgeprune.recipe import Recipe
from edgeprune.stages import load, profile
from edgeprune.stages.run import Run
from edgeprune.target import load_target

NETWORKS: dict[str, tuple[dict[str, Any], list[int]]] = {
    "streetnet": ({"network": "streetnet"}, [128, 256]),
    "deeplabv3-r50": ({"network": "deeplabv3", "args": {"depth": 50, "output_stride": 16}}, [360, 480]),
    "segnet": ({"network": "segnet"}, [360, 480]),
    "fastscnn": ({"network": "fastscnn"}, [192, 384]),
}


def make(name: str, precision: str, budget: str, home: Path, target: str = "cpu", threads: int = 0) -> Run:
    """A run whose dense network is freshly initialised.

    Args:
        threads: of the engines; 0: the target's own.
    """
    model, size = NETWORKS[name]
    schedule = {"steps": 1, "batch": 2}
    recipe = Recipe.model_validate(
        {
            "name": name, "model": model, "data": {"name": "streets", "size": size, "args": {"train": 16, "val": 2}},
            "train": schedule, "prune": {"method": "l2", "worth": "score", "min_keep": 0.05},
            "budget": {"latency": budget}, "finetune": schedule, "deploy": {"precision": precision},
        }
    )  # fmt: skip
    device = load_target(target)
    device = device.model_copy(update={"threads": threads or device.threads})
    run = Run(recipe, device, home / f"{name}-{precision}", progress.console())
    weights = run.folder / "load" / "weights.safetensors"
    if not weights.exists():
        torch.manual_seed(0)
        net = load.build(run)
        for module in net.modules():  # a trained network's norms keep activations in range; so do these
            if isinstance(module, torch.nn.BatchNorm2d):
                module.reset_running_stats()
        calibrate(run, net)
        save_tensors(weights, dict(net.state_dict()))
    return run


def calibrate(run: Run, net: torch.nn.Module) -> None:
    """Statistics of the norms over a few images, so that activations are neither zero nor infinite."""
    from edgeprune.data.transforms import normalised

    data = load.dataset(run, "train")
    net.train()
    with torch.no_grad():
        for first in (0, 2):
            import numpy as np

            models.logits_of(net(normalised(np.stack([data[first][0], data[first + 1][0]]))))
    net.eval()


def parts(run: Run) -> tuple[Any, Any, Any]:
    """(dense network, channel graph, L2 scores)."""
    net = load.dense(run)
    graph = find_groups(net, load.example(run))
    criterion = CRITERIA["l2"]()
    criterion.attach(net, graph.groups)
    return net, graph, criterion.scores()


def profiled(run: Run) -> None:
    """Leave the profile stage's facts in the run."""
    run.facts["profile"] = profile.profile(run)
