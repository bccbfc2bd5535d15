"""A network's weights, kept and read in one mode.

Some layers compute with other tensors in evaluation than they learn in training: a low-rank update is merged into its
weight by `eval()` and taken out again by `train()`. Tensors are therefore always taken in training mode and read back in
training mode, whatever the mode of the network at hand.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from edgeprune.models.modes import modes_kept

_EXTRA = "_extra_state"  # PyTorch's name for what `get_extra_state` gives, which need not be a tensor


def tensors_of(net: nn.Module) -> dict[str, torch.Tensor]:
    """Name -> the parameters and buffers of `net.state_dict()` as they are now, not copied; extra state is left out."""
    return {name: value for name, value in net.state_dict().items() if not _is_extra(name)}


def unsaved_of(net: nn.Module) -> dict[str, torch.Tensor]:
    """Name -> the parameters and buffers that `net.state_dict()` leaves out (`persistent=False`), as they are now, not copied."""
    saved = net.state_dict().keys()
    return {
        name: value.detach() for name, value in (*net.named_parameters(), *net.named_buffers()) if name not in saved
    }


def load_unsaved(net: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Read what `unsaved_of` gave, in place where the shape is the same."""
    now = unsaved_of(net)
    with torch.no_grad():
        for name, value in tensors.items():
            if name in now and now[name].shape == value.shape:
                now[name].copy_(value)
            else:  # made or enlarged by a forward
                path, _, leaf = name.rpartition(".")
                net.get_submodule(path)._buffers[leaf] = value


def weights_of(net: nn.Module) -> dict[str, torch.Tensor]:
    """Name -> a copy of each tensor as it is in training mode: what belongs on the disk. The mode of `net` is put back."""
    with modes_kept(net):
        return _copies(tensors_of(net.train()))


def load_weights(net: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Read what `weights_of` gave; `net` is in training mode afterwards, and its extra state is as it was.

    Raises:
        RuntimeError: names or shapes differ.
    """
    net.train()
    missing, unexpected = net.load_state_dict(dict(tensors), strict=False)
    odd = [name for name in (*missing, *unexpected) if not _is_extra(name)]
    if odd:
        kind = "missing" if odd[0] in missing else "not of this network"
        raise RuntimeError(f"{len(odd)} tensors do not match, the first is {odd[0]} ({kind})")


@contextlib.contextmanager
def unchanged(net: nn.Module) -> Iterator[None]:
    """In here a network may be run in another mode; afterwards its modes are those of before, and its tensors to the last bit.

    What `eval()` merges and `train()` takes out again comes back rounded, and a training that was killed must end like one that
    was not.
    """
    before, unsaved = _copies(tensors_of(net)), _copies(unsaved_of(net))
    try:
        with modes_kept(net):
            yield
    finally:
        with torch.no_grad():
            for name, value in tensors_of(net).items():
                if name in before and not torch.equal(value, before[name]):
                    value.copy_(before[name])
        load_unsaved(net, unsaved)


def _is_extra(name: str) -> bool:
    return name.rpartition(".")[2] == _EXTRA


def _copies(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in tensors.items()}
