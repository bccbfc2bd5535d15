"""Does a recipe fit a target? Checks that reach across both files and into what the program can do."""

from __future__ import annotations

import inspect
from typing import Any

from pydantic import ValidationError

from edgeprune.devices import device_of
from edgeprune.documents import hint
from edgeprune.errors import RecipeError
from edgeprune.models import NETWORKS
from edgeprune.prune.criteria import CRITERIA
from edgeprune.recipe import Recipe, Train
from edgeprune.runtime import BACKENDS, UNTIMED
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
    _training(recipe)
    network = recipe.model.network
    if network is not None and network not in NETWORKS:
        raise RecipeError(f"model.network: {network!r} is unknown; {hint(network, list(NETWORKS))}")
    asked = recipe.deploy.precision
    if asked != "auto" and asked not in target.precisions:
        raise RecipeError(f"deploy.precision: {target.name} has {', '.join(target.precisions)}, not {asked}")
    if asked == "int8" and target.backend not in (*BACKENDS, "tensorrt"):
        raise RecipeError(f"deploy.precision: int8 cannot be built for {target.backend} yet; use f16")
    figures = target.catalogue is not None and target.catalogue.bandwidth_gb_s
    if target.host and target.backend == "inductor":
        raise RecipeError("target.host: inductor's engines are code, compiled and run on this machine only; no --host")
    untimed = f"{target.backend} tells no times by layer" if target.backend in UNTIMED else None
    if recipe.budget.is_latency and not figures and (missing := device_of(target).why_not() or untimed):
        raise RecipeError(
            f"budget.{recipe.budget.kind}: {target.name} cannot be measured ({missing}), and its file has no catalogue "
            "figures to estimate from; use budget.macs, or --host"
        )
    stride = STRIDES.get(recipe.model.network or "", 1)
    if any(side % stride for side in recipe.data.size):
        raise RecipeError(
            f"data.size: {recipe.model.network} wants multiples of {stride}, not {list(recipe.data.size)}"
        )
    protocol = recipe.data.evaluate
    if protocol and protocol.crop and any(side % stride for side in protocol.crop):
        raise RecipeError(f"data.evaluate.crop: {recipe.model.network} wants multiples of {stride}")
    rounds = [
        (f"prune.rounds.{n}.{part}", getattr(r, part))
        for n, r in enumerate(recipe.prune.rounds)
        for part in ("sparsity", "finetune")
    ]
    for name, schedule in (
        ("train", recipe.train),
        ("prune.sparsity", recipe.prune.sparsity),
        *rounds,
        ("finetune", recipe.finetune),
    ):
        if schedule is not None:
            _schedule(recipe, name, schedule)
            if schedule.checkpoint_blocks and name.endswith("sparsity"):
                raise RecipeError(
                    f"{name}.checkpoint_blocks: a criterion would see every map twice; only train and finetune may set it"
                )


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
    for n, args in enumerate([recipe.prune.args, *(r.args or {} for r in recipe.prune.rounds)]):
        place = "prune.args" if n == 0 else f"prune.rounds.{n - 1}.args"
        for key in args:
            if key not in takes:
                raise RecipeError(f"{place}.{key}: {recipe.prune.method} has no such switch; {hint(key, list(takes))}")


def _training(recipe: Recipe) -> None:
    """Does the criterion get the training that it scores after, and no other?"""
    method = recipe.prune.method
    part = CRITERIA[method].training
    given = [recipe.prune.sparsity, *(r.sparsity for r in recipe.prune.rounds)]
    if part == "no" and any(s is not None for s in given):
        others = ", ".join(name for name, made in CRITERIA.items() if made.training != "no")
        raise RecipeError(
            f"prune.sparsity: {method} has no sparsity term, nothing that it learns in training; {others} have"
        )
    if part == "must" and recipe.prune.sparsity is None:
        raise RecipeError(
            f"prune.sparsity is missing: {method} scores after a training that it takes part in; give its schedule, for "
            "example --set prune.sparsity.epochs=10"
        )


def with_method(recipe: Recipe, method: str, name: str) -> Recipe:
    """The recipe with another criterion, everything else equal: switches are a criterion's own, its training goes along
    only to those that must have one.

    Raises:
        RecipeError: the criterion does not go with the rest.
    """
    content = recipe.model_dump(mode="json")
    own = method == recipe.prune.method
    taught = own or (method in CRITERIA and CRITERIA[method].training == "must")
    rounds = [
        {**r, "args": r["args"] if own else None, "sparsity": r["sparsity"] if taught else None}
        for r in content["prune"]["rounds"]
    ]
    content["prune"] |= {
        "method": method, "args": content["prune"]["args"] if own else {}, "rounds": rounds,
        "sparsity": content["prune"]["sparsity"] if taught else None,
    }  # fmt: skip
    try:
        return Recipe.model_validate({**content, "name": name})
    except ValidationError as error:
        raise RecipeError(
            f"prune.method: {method} does not go with this recipe ({error.errors()[0]['msg']})"
        ) from error
