"""Are a file's tensors weights that a network can compute with? One line for each that is not."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from edgeprune.errors import CheckpointError

_VARIANCES = ("running_var", "moving_var", "moving_variance")


def check_kinds(place: str, tensors: dict[str, torch.Tensor], want: Collection[str]) -> None:
    """Refuse tensors that hold no plain numbers.

    Args:
        place: the file, and where in it they lie.
        want: the network's names.

    Raises:
        CheckpointError: quantised, without content (meta), nested, or of a class of their own (DTensor).
    """
    for key, value in tensors.items():
        if type(value) not in (torch.Tensor, nn.Parameter):
            raise CheckpointError(
                f"{place}: {key} is a {type(value).__name__}; save whole, plain tensors (full_tensor())"
            )
        if value.is_quantized or (key.endswith("zero_point") and key not in want):
            what = f" ({str(value.dtype).removeprefix('torch.')})" if value.is_quantized else ""
            raise CheckpointError(
                f"{place}: {key} is of a quantised network{what}; give the weights from before its quantisation: engines are "
                "quantised by the target's precision"
            )
        if value.is_meta:
            raise CheckpointError(f"{place}: {key} is a meta tensor: its shape was saved and not its values")
        if value.is_nested:
            raise CheckpointError(f"{place}: {key} is a nested tensor; plain ones are wanted")


def as_wanted(place: str, key: str, value: torch.Tensor, want: torch.Tensor) -> torch.Tensor:
    """The value, dense and in the network's own type.

    Raises:
        CheckpointError: complex or whole numbers where real ones belong or the other way round, NaN, infinity, a negative variance.
    """
    value = value.detach()
    if value.layout != torch.strided:
        value = value.to_dense()
    have, wants = (str(t.dtype).removeprefix("torch.") for t in (value, want))
    if value.is_complex() != want.is_complex():
        raise CheckpointError(f"{place}: {key} holds {have}, the network wants {wants}")
    real = want.is_floating_point() or want.is_complex()
    if real and not (value.is_floating_point() or value.is_complex()):
        raise CheckpointError(
            f"{place}: {key} holds {have}, the network wants {wants}; are these quantised weights without their scales?"
        )
    made = value.to(want.dtype)
    if real and not torch.isfinite(made if made.is_complex() else made.float()).all() and not torch.equal(made, want):
        over = f" as {wants}" if bool(torch.isfinite(value if value.is_complex() else value.double()).all()) else ""
        raise CheckpointError(f"{place}: {key} holds NaN or infinity{over}; the training that wrote it has diverged")
    if not real and not key.endswith("num_batches_tracked") and bool((made.to(value.dtype) != value).any()):
        raise CheckpointError(f"{place}: {key} holds {have} that {wants}, which the network wants, cannot hold")
    if key.rpartition(".")[2] in _VARIANCES and bool((made < 0).any()):
        raise CheckpointError(f"{place}: {key} is negative ({float(made.min()):.3g}), which no variance can be")
    return made
