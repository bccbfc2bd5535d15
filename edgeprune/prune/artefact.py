"""The pruned network on disk: `plan.json` + `weights.safetensors`, no pickle, read back bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgeprune.arguments import check_arguments
from edgeprune.errors import CheckpointError, RecipeError, SurgeryError, UsageError, first_line
from edgeprune.files import load_tensors, save_tensors
from edgeprune.models.state import load_weights, weights_of
from edgeprune.prune.plan import Plan, read_plan, save_plan
from edgeprune.prune.surgery import check_structure, shrink

_GIVEN = {"classes": "network.classes"}


def save_pruned(folder: Path, net: nn.Module, plan: Plan, network: dict[str, Any]) -> None:
    """Write a pruned network; `network` are `models.build`'s arguments for the dense one."""
    save_tensors(folder / "weights.safetensors", weights_of(net))
    save_plan(folder / "plan.json", plan, network)


def restore(dense: nn.Module, plan: Plan, weights: Path) -> nn.Module:
    """Replay the plan on a fresh dense network and load the pruned weights.

    Raises:
        CheckpointError: the weights belong to another plan.
    """
    mode = [(m, m.training) for m in dense.modules()]
    small = shrink(dense.train(), plan)
    for module, training in mode:  # weights are read in training mode; the caller's network keeps its own
        module.training = training
    tensors = load_tensors(weights)
    for name, value in tensors.items():  # biases that folding has added
        path, _, leaf = name.rpartition(".")
        module = small.get_submodule(path)
        if leaf == "bias" and getattr(module, "bias", None) is None:
            module.bias = nn.Parameter(torch.zeros_like(value))
    try:
        load_weights(small, tensors)
    except RuntimeError as error:
        line = str(error).strip().splitlines()[-1].strip()
        raise CheckpointError(f"{weights}: does not fit the plan beside it ({line})") from error
    return small.eval()


def _into(dense: nn.Module, plan: Plan, home: Path, factory: str | None) -> nn.Module:
    """A copy of the caller's network, cut and with the folder's weights."""
    if not isinstance(dense, nn.Module) or factory is not None:
        what = "and factory are two ways to the network; give one" if factory else "has to be a network, an nn.Module"
        raise UsageError(f"load: into {what}")
    if any(t.is_meta for t in dense.state_dict().values()):
        raise UsageError("load: into lies on the meta device, without memory; build it on the CPU")
    try:
        return restore(dense, plan, home / "weights.safetensors")
    except SurgeryError as error:
        raise SurgeryError(
            f"{home / 'plan.json'}: {error}; `into` has to be the dense network that was cut (of DataParallel its .module, of a "
            "compiled one its ._orig_mod)"
        ) from error
    except (RuntimeError, TypeError) as error:
        raise SurgeryError(f"load: no copy can be made of into ({first_line(error)}); give a fresh network") from error


def load_pruned(folder: str | Path, factory: str | None = None, into: nn.Module | None = None) -> nn.Module:
    """The pruned network of a run's folder (or of the folder that holds `plan.json`), in evaluation mode.

    Args:
        factory: see above; `into`: the dense network, as it was cut. It is left as it is; what comes back is a copy of it, narrower.

    One of several outputs of which the recipe or its shape said which ships gives {"out": that one, "aux.<path>": each other}.

    Raises:
        SurgeryError: the plan is of another network, or was changed.
        CheckpointError: the plan names code that builds its network, and `factory` does not name the same: a file runs no code.
    """
    from edgeprune import models

    folder = Path(folder)
    home = next((f for f in (folder, folder / "finetune", folder / "prune") if (f / "plan.json").exists()), folder)
    plan, network = read_plan(home / "plan.json")
    if into is not None:
        return _into(into, plan, home, factory)
    if (named := network.get("factory")) and named != factory:
        raise CheckpointError(
            f"{home / 'plan.json'}: its network is built by the code {named!r}; if you trust that, load(…, factory={named!r})"
        )
    try:
        made = (network.get("network"), network.get("args", {}), named, network["classes"], network.get("output"))
        if not named:  # a file can claim any width: the structure is compared before memory is taken for weights
            if call := models.NETWORKS.get(name := str(made[0])):
                check_arguments(call, made[1], where="network.args", whose=name, given=_GIVEN)
            with torch.device("meta"):
                check_structure(models.build(*made), plan)
        dense = models.build(*made)
        return restore(dense, plan, home / "weights.safetensors")
    except (
        RecipeError,
        IndexError,
        KeyError,
        AttributeError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:  # changed by hand
        raise SurgeryError(
            f"{home / 'plan.json'}: does not fit its network ({type(error).__name__}: {first_line(error)}); make it again"
        ) from error
