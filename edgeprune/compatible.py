"""Does a recipe fit a target? Checks that reach across both files and into what the program can do."""

from __future__ import annotations

from pydantic import ValidationError

from edgeprune.arguments import check_arguments
from edgeprune.data import DATASETS, GIVEN, TASK_SETS, task_of
from edgeprune.devices import device_of
from edgeprune.documents import hint
from edgeprune.errors import RecipeError
from edgeprune.models import NETWORKS, TASK_NETWORKS
from edgeprune.prune.criteria import CRITERIA
from edgeprune.recipe import TASK_GATES, Gates, Recipe, Train
from edgeprune.runtime import UNTIMED, torch_tensorrt
from edgeprune.target import Target

STRIDES = {"segnet": 1, "streetnet": 16}
LOSSES = {"segmentation": ("ce", "ohem", "gsrl"), "classification": ("ce",), "detection": ("focal",)}
# networks that normalise one mean of the whole image over the batch
POOLED = ("deeplabv3", "deeplabv3plus", "pspnet", "icnet", "fastscnn", "bisenetv2", "ddrnet", "pidnet")

# what constructors get from elsewhere than model.args
_MODEL = {"self": "Python", "classes": "the data set"}


def check_pair(recipe: Recipe, target: Target) -> None:
    """Refuse what would fail later.

    Raises:
        RecipeError: names the key and what would be right.
    """
    if recipe.prune.method not in CRITERIA:
        raise RecipeError(
            f"prune.method: {recipe.prune.method!r} is unknown; {hint(recipe.prune.method, list(CRITERIA))}"
        )
    network = recipe.model.network
    if network is not None and network not in NETWORKS:
        raise RecipeError(f"model.network: {network!r} is unknown; {hint(network, list(NETWORKS))}")
    _training(recipe)
    _task(recipe)
    _arguments(recipe)
    asked = recipe.deploy.planned
    if asked != "auto" and asked not in target.precisions:
        raise RecipeError(f"deploy.precision: {target.name} has {', '.join(target.precisions)}, not {asked}")
    if recipe.deploy.precision == "fastest" and recipe.budget.latency is not None:
        raise RecipeError(
            "deploy.precision: fastest does not go with budget.latency: a share of the dense engine's time hangs on the "
            "precision of both; give budget.latency_ms or budget.fps, or name the precision"
        )
    _route(recipe, target)
    if (
        asked == "int8"
        and target.backend == "openvino"
        and not target.host
        and (missing := device_of(target).why_not())
    ):
        raise RecipeError(
            f"deploy.precision: int8 for OpenVINO is quantised for a device that can be asked ({missing}); use f16, or --host"
        )
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


def _route(recipe: Recipe, target: Target) -> None:
    """Can torch-tensorrt build the engine, and this machine run it?"""
    cfg, route = recipe.deploy, "deploy.route: torch_tensorrt"
    if cfg.route != "torch_tensorrt":
        return
    if target.backend != "tensorrt" or target.host:
        where = f"over ssh ({target.host})" if target.host else f"of {target.name} ({target.backend})"
        raise RecipeError(f"{route} is for TensorRT on this machine (--target tensorrt), not {where}; use onnx")
    if recipe.budget.is_latency:
        raise RecipeError(
            f"{route} does not go with budget.{recipe.budget.kind}: the table of latencies is measured by onnx"
        )
    if cfg.planned == "int8":
        raise RecipeError(f"{route} runs f32 and f16, not int8, which is written into ONNX graphs; use onnx")
    if cfg.head == "coarse" or cfg.logits:
        key = "deploy.head: coarse" if cfg.head == "coarse" else "deploy.logits"
        raise RecipeError(f"{key} does not go with {route}; use onnx")
    missing = None if torch_tensorrt.installed() else torch_tensorrt.INSTALL
    if missing := missing or device_of(target).why_not():
        raise RecipeError(f"{route}: its engines are built and run on this machine only: {missing}")


def _task(recipe: Recipe) -> None:
    """Are data, network, criterion and gates for the recipe's task?"""
    task, network, name = recipe.task, recipe.model.network, recipe.data.name
    if name not in TASK_SETS[task]:
        raise RecipeError(f"data.name: {name} is for task: {task_of(name)}; {task} has {', '.join(TASK_SETS[task])}")
    if network is not None and network not in TASK_NETWORKS[task]:
        other = next(t for t, networks in TASK_NETWORKS.items() if network in networks)
        raise RecipeError(f"model.network: {network} is for task: {other}; {task} has {', '.join(TASK_NETWORKS[task])}")
    tasks = getattr(CRITERIA[recipe.prune.method], "tasks", tuple(TASK_SETS))
    if task not in tasks:
        raise RecipeError(f"prune.method: {recipe.prune.method} needs labels of {' or '.join(tasks)}, not of {task}")
    for gate in (g for t, gates in TASK_GATES.items() if t != task for g in gates):
        if getattr(recipe.deploy.gates, gate) not in (None, Gates.model_fields[gate].default):
            raise RecipeError(f"deploy.gates.{gate}: not of task: {task}, which has {', '.join(TASK_GATES[task])}")
    if task == "segmentation":
        return
    only = "is for task: segmentation"
    if recipe.data.evaluate is not None:
        raise RecipeError(f"data.evaluate: {only}")
    if recipe.deploy.head != "auto":
        raise RecipeError(f"deploy.head: {only}; an engine of {task} ends in its logits")
    if recipe.deploy.logits:
        raise RecipeError(f"deploy.logits: {only}; an engine of {task} gives its logits anyway")
    if recipe.finetune and recipe.finetune.distill is not None and recipe.finetune.distill.features:
        raise RecipeError(f"finetune.distill.features: {only}")


def _schedule(recipe: Recipe, name: str, schedule: Train) -> None:
    task, kinds = recipe.task, LOSSES[recipe.task]
    if schedule.loss.kind not in kinds:
        raise RecipeError(f"{name}.loss.kind: {task} is learnt by {' or '.join(kinds)}, not {schedule.loss.kind}")
    if recipe.prune.method == "mtp" and schedule.autocast == "fp16" and "sparsity" in name:
        raise RecipeError(
            f"{name}.autocast: mtp reads the gradients of single losses, most of which fp16 rounds to 0; use bf16"
        )
    if schedule.resample != "none" and task != "segmentation":
        raise RecipeError(f"{name}.resample: crops are laid around a class's pixels, which only segmentation has")
    if task == "detection" and schedule.loss.class_weights != "none":
        raise RecipeError(f"{name}.loss.class_weights: focal loss has none; it weighs by focal_alpha")
    if task == "detection" and schedule.augment.crop not in (None, recipe.data.size):
        raise RecipeError(f"{name}.augment.crop: a detector's anchors are those of data.size; leave crop out")
    if schedule.batch < 2 and recipe.model.network in POOLED:
        raise RecipeError(
            f"{name}.batch: {recipe.model.network}'s image pooling is normalised over the batch; it wants 2 or more"
        )
    stride = STRIDES.get(recipe.model.network or "", 1)
    if schedule.augment.crop and any(side % stride for side in schedule.augment.crop):
        raise RecipeError(f"{name}.augment.crop: {recipe.model.network} wants multiples of {stride}")


def _arguments(recipe: Recipe) -> None:
    """What the data set, the network and the criterion are given, by their signatures."""
    data, model, prune = recipe.data, recipe.model, recipe.prune
    check_arguments(DATASETS[data.name], data.args, where="data.args", whose=data.name, given=GIVEN)
    for n, args in enumerate([prune.args, *(r.args or {} for r in prune.rounds)]):
        place = "prune.args" if n == 0 else f"prune.rounds.{n - 1}.args"
        check_arguments(CRITERIA[prune.method], args, where=place, whose=prune.method, given={})
    if model.network is not None:
        check_arguments(NETWORKS[model.network], model.args, where="model.args", whose=model.network, given=_MODEL)


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
