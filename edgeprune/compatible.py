"""Does a recipe fit a target? Checks that reach across both files and into what the program can do."""

from __future__ import annotations

import inspect
from typing import Any

from edgeprune.devices import device_of
from edgeprune.documents import hint
from edgeprune.errors import RecipeError
from edgeprune.models import NETWORKS
from edgeprune.prune.criteria import CRITERIA
from edgeprune.recipe import Recipe, Train
from edgeprune.runtime import BACKENDS
from edgeprune.target import Target

STRIDES = {"segnet": 1, "streetnet": 16}
# networks that normalise one mean of the whole image over the batch
POOLED = ("deeplabv3", "deeplabv3plus", "pspnet", "icnet", "fastscnn", "bisenetv2", "ddrnet", "pidnet")


def check_pair(recipe: Recipe, target: Target) -> None:
    """Refuse what would fail later.

    Raises:
        RecipeError: names the key and what would be right.
    """
    if recipe.prune.method not in CRITERIA:
        raise RecipeError(
            f"prune.method: {recipe.prune.method!r} is unknown; {hint(recipe.prune.method, list(CRITERIA))}"
        )
    _arguments(recipe)
    network = recipe.model.network
    if network is not None and network not in NETWORKS:
        raise RecipeError(f"model.network: {network!r} is unknown; {hint(network, list(NETWORKS))}")
    asked = recipe.deploy.precision
    if asked != "auto" and asked not in target.precisions:
        raise RecipeError(f"deploy.precision: {target.name} has {', '.join(target.precisions)}, not {asked}")
    if asked == "int8" and target.backend not in BACKENDS:
        raise RecipeError(f"deploy.precision: int8 cannot be built for {target.backend} yet; use f16")
    figures = target.catalogue is not None and target.catalogue.bandwidth_gb_s
    if recipe.budget.is_latency and not figures and (missing := device_of(target).why_not()):
        raise RecipeError(
            f"budget.{recipe.budget.kind}: {target.name} cannot be measured ({missing}), and its file has no catalogue "
            "figures to estimate from; use budget.macs, or --host"
        )
    stride = STRIDES.get(recipe.model.network or "", 1)
    if any(side % stride for side in recipe.data.size):
        raise RecipeError(
            f"data.size: {recipe.model.network} wants multiples of {stride}, not {list(recipe.data.size)}"
        )
    for name, schedule in (
        ("train", recipe.train),
        ("prune.sparsity", recipe.prune.sparsity),
        ("finetune", recipe.finetune),
    ):
        if schedule is not None:
            _schedule(recipe, name, schedule)


def _schedule(recipe: Recipe, name: str, schedule: Train) -> None:
    if schedule.batch < 2 and recipe.model.network in POOLED:
        raise RecipeError(
            f"{name}.batch: {recipe.model.network}'s image pooling is normalised over the batch; it wants 2 or more"
        )
    stride = STRIDES.get(recipe.model.network or "", 1)
    if schedule.augment.crop and any(side % stride for side in schedule.augment.crop):
        raise RecipeError(f"{name}.augment.crop: {recipe.model.network} wants multiples of {stride}")


def _arguments(recipe: Recipe) -> None:
    """The criterion's switches, by its constructor."""
    takes: dict[str, Any] = dict(inspect.signature(CRITERIA[recipe.prune.method]).parameters)
    for key in recipe.prune.args:
        if key not in takes:
            raise RecipeError(f"prune.args.{key}: {recipe.prune.method} has no such switch; {hint(key, list(takes))}")
