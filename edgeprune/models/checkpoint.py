"""Trained weights from a file that is not trusted: safetensors, or a torch file read without running code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgeprune.errors import CheckpointError
from edgeprune.models.state import EXTRA, tensors_of

_INSIDE = ("state_dict", "model_state_dict", "model", "net", "weights")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
_COUNTERS = {"n_averaged", "mask_values"}  # what is no weight: of averaged models, and of milesial's UNet
_BACKBONES = ("backbone.", "encoder.", "")  # where a network holds it
_CLASSIFIERS = {"fc", "classifier", "head", "last_linear"}
_DEEP_STEM = {"conv1": 0, "bn1": 1, "conv2": 3, "bn2": 4, "conv3": 6, "bn3": 7}


def load_checkpoint(net: nn.Module, path: str | Path, head: bool = True) -> list[str]:
    """Load weights in place; every key must be there and fit. Returns the names of those that were left out.

    Training wrappers' prefixes ("module.", "_orig_mod.") and outer dicts ("state_dict", "model") are taken off. A network
    that has a method `rename(tensors)` translates published key names by it.

    Args:
        head: False leaves out classifiers, of which only the number of classes differs.

    Raises:
        CheckpointError: one line: no such file, code inside, missing or left-over keys, another shape, NaN.
    """
    path = Path(path).expanduser()
    have, want = _stripped(_read(path), net), tensors_of(net)
    rename = getattr(net, "rename", None)
    if rename is not None:
        have = rename(have)
    odd = {k for k, v in have.items() if k in want and v.shape != want[k].shape}
    if odd and not head:
        _only_classes(path, {k: (tuple(have[k].shape), tuple(want[k].shape)) for k in sorted(odd)})
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
        _finite(path, key, value)
    net.load_state_dict({k: v for k, v in have.items() if k not in odd}, strict=False)
    return sorted(odd)


def load_backbone(net: nn.Module, path: str | Path) -> int:
    """Load a trained backbone (of ImageNet, as torchvision and others publish them) in place; returns how many tensors it had.

    Its tensors may stand in the network under "backbone.", "encoder." or as they are; a classifier of the file is left out, and
    what the network has besides (its head) stays as it was made.

    Raises:
        CheckpointError: one line: as `load_checkpoint`, or no such backbone in the network.
    """
    path = Path(path).expanduser()
    have, want = _stripped(_read(path), net), tensors_of(net)
    have = {k: v for k, v in have.items() if k.partition(".")[0] not in _CLASSIFIERS}
    names = [{f"{prefix}{_deep(k, want)}": v for k, v in have.items()} for prefix in _BACKBONES]
    best = max(names, key=lambda found: len(set(found) & set(want)))
    inside = {k.partition(".")[0] for k in best}
    missing = sorted(
        k for k in want if k.partition(".")[0] in inside and k not in best and not k.endswith("num_batches_tracked")
    )
    extra, odd = sorted(set(best) - set(want)), sorted(k for k in best if k in want and best[k].shape != want[k].shape)
    if extra or odd or missing:
        key, what = (extra or odd or missing)[0], "not of" if extra else "of another shape in" if odd else "missing for"
        raise CheckpointError(
            f"{path}: {len(extra or odd or missing)} of {len(best)} weights are {what} the network's backbone, the first is {key}; "
            "another network? (model.checkpoint takes a whole network's)"
        )
    for key, value in best.items():
        _finite(path, key, value)
    net.load_state_dict(best, strict=False)
    return len(best)


def _deep(name: str, want: dict[str, torch.Tensor]) -> str:
    """PSPNet's ResNet begins with three convolutions, conv1 to conv3 in published backbones, layer0 in the network."""
    first, _, rest = name.partition(".")
    return f"layer0.{_DEEP_STEM[first]}.{rest}" if first in _DEEP_STEM and "layer0.0.weight" in want else name


def _only_classes(path: Path, shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]) -> None:
    """Refuse if what differs is more than a number of classes, the same one in all classifiers."""
    counts = set()
    for key, (have, want) in shapes.items():
        differing = [(a, b) for a, b in zip(have, want, strict=False) if a != b]
        counts |= set(differing)
        if len(have) != len(want) or len(differing) != 1 or len(counts) > 1:
            raise CheckpointError(
                f"{path}: {key} has shape {have}, the network wants {want}; model.checkpoint_head: false leaves out classifiers of "
                "another number of classes, and this is more; another network or width?"
            )


def _finite(path: Path, key: str, value: torch.Tensor) -> None:
    if value.is_floating_point() and not torch.isfinite(value.float()).all():
        raise CheckpointError(f"{path}: {key} holds NaN or infinity; the training that wrote it has diverged")


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
    content = {k: v for k, v in content.items() if k not in _COUNTERS and not str(k).endswith(EXTRA)}
    bad = next((k for k, v in content.items() if not (isinstance(k, str) and isinstance(v, torch.Tensor))), None)
    if bad is not None:
        raise CheckpointError(f"{path}: {bad} is {type(content[bad]).__name__}, not a named tensor")
    return {k: v.to_dense() if v.layout != torch.strided else v for k, v in content.items()}


def _stripped(tensors: dict[str, torch.Tensor], net: nn.Module) -> dict[str, torch.Tensor]:
    want = set(tensors_of(net))
    changed = True
    while changed and not want & set(tensors):
        changed = False
        for prefix in _PREFIXES:
            if all(k.startswith(prefix) for k in tensors):
                tensors, changed = {k.removeprefix(prefix): v for k, v in tensors.items()}, True
    for prefix in (
        _PREFIXES if not want & set(tensors) else ()
    ):  # beside a trainer's network lie a loss's weights, a metric's counts
        inside = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if want <= set(inside):
            return inside
    return tensors
