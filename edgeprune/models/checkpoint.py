"""Trained weights from a file that is not trusted: safetensors, or a torch file read without running code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgeprune.errors import CheckpointError

_INSIDE = ("state_dict", "model_state_dict", "model", "net", "weights")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")


def load_checkpoint(net: nn.Module, path: str | Path, head: bool = True) -> None:
    """Load weights in place; every key must be there and fit.

    Training wrappers' prefixes ("module.", "_orig_mod.") and outer dicts ("state_dict", "model") are taken off. A network
    that has a method `rename(tensors)` translates published key names by it.

    Args:
        head: False leaves out tensors whose shape differs (another number of classes) and lists none as missing.

    Raises:
        CheckpointError: one line: no such file, code inside, missing or left-over keys, another shape, NaN.
    """
    path = Path(path).expanduser()
    have, want = _stripped(_read(path), net), net.state_dict()
    rename = getattr(net, "rename", None)
    if rename is not None:
        have = rename(have)
    odd = {k for k, v in have.items() if k in want and v.shape != want[k].shape}
    if odd and head:
        key = sorted(odd)[0]
        raise CheckpointError(
            f"{path}: {key} has shape {tuple(have[key].shape)}, the network wants {tuple(want[key].shape)} "
            f"({len(odd)} such tensors); another number of classes? (model.checkpoint_head: false leaves them out)"
        )
    missing = sorted(k for k in want if k not in have and not k.endswith("num_batches_tracked"))
    if missing:
        raise CheckpointError(
            f"{path}: {len(missing)} weights are missing, the first is {missing[0]}; another network?"
        )
    extra = sorted(set(have) - set(want))
    if extra:
        raise CheckpointError(
            f"{path}: {len(extra)} weights are not the network's, the first is {extra[0]}; another network?"
        )
    for key, value in have.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise CheckpointError(f"{path}: {key} holds NaN or infinity; the training that wrote it has diverged")
    net.load_state_dict({k: v for k, v in have.items() if k not in odd}, strict=False)


def _read(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint file")
    with path.open("rb") as handle:
        start = handle.read(2)
    if path.suffix != ".safetensors" and start != b"PK" and start[:1] != b"\x80":  # text, a pointer of git-lfs, cut off
        raise CheckpointError(f"{path}: is not a whole checkpoint (neither safetensors nor a torch file)")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds Python objects besides tensors, and loading those would run its code; save "
            "net.state_dict() alone, or better as .safetensors"
        ) from error
    except Exception as error:
        raise CheckpointError(f"{path}: is not a whole checkpoint ({str(error).splitlines()[0][:120]})") from error
    for key in _INSIDE:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path}: holds {type(content).__name__}, not a dict of weights")
    bad = next((k for k, v in content.items() if not isinstance(v, torch.Tensor)), None)
    if bad is not None:
        raise CheckpointError(f"{path}: {bad} is {type(content[bad]).__name__}, not a tensor")
    return content


def _stripped(tensors: dict[str, torch.Tensor], net: nn.Module) -> dict[str, torch.Tensor]:
    want = set(net.state_dict())
    changed = True
    while changed and not want & set(tensors):
        changed = False
        for prefix in _PREFIXES:
            if all(k.startswith(prefix) for k in tensors):
                tensors, changed = {k.removeprefix(prefix): v for k, v in tensors.items()}, True
    return tensors
