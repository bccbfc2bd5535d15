"""What lies in a checkpoint file, read without running anything of it: safetensors, or torch's pickle cut down to tensors."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import torch

from edgeprune.checkpoint_file import checkpoint_format
from edgeprune.errors import CheckpointError, first_line


def content_of(path: Path) -> dict[Any, Any]:
    """A dict of tensors, or of dicts that hold some.

    Raises:
        CheckpointError: one line: no such file, not whole, of another kind, or code inside.
    """
    kind = checkpoint_format(path)
    try:
        if kind == "safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: {_objects(str(error))}") from error
    except Exception as error:  # a damaged file makes the readers stumble in every way
        raise CheckpointError(f"{path}: is not a whole checkpoint ({first_line(error)[:120]})") from error
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path}: holds {type(content).__name__}, not a dict of weights")
    return content


def _objects(error: str) -> str:
    """Which objects torch refused to make."""
    found = re.search(r"(?:GLOBAL|global:|class) (?!GLOBAL)([\w.]+)", error)
    name = found[1] if found else ""
    if name.startswith("torch.distributed"):
        return (
            f"is sharded over processes ({name}); gather the weights before saving, with "
            "torch.distributed.checkpoint.state_dict.get_model_state_dict and full_state_dict=True"
        )
    return (
        f"holds Python objects besides tensors{f' ({name})' if name else ''}, and loading those would run its code; save "
        "net.state_dict() alone, or better as .safetensors"
    )
