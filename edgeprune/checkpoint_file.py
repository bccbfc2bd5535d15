"""Which kind of checkpoint a file is, by its first bytes: cheap, without torch, and nothing in it is run or unpacked."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Literal

from edgeprune.errors import CheckpointError

Format = Literal["safetensors", "torch"]

_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the number that torch.save began with before it wrote zips
_SAVE = "save net.state_dict() with torch.save, or better as .safetensors"
_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a pointer of Git LFS, not the weights themselves; fetch them with `git lfs pull`"),
    (b"\x89HDF\r\n", f"an HDF5 file (Keras .h5); in PyTorch, {_SAVE}"),
    (b"\x1f\x8b", "compressed by gzip; unpack it first"),
    (b"\x93NUMPY", f"a NumPy array without a name; {_SAVE}"),
    (b"GGUF", f"a GGUF file; {_SAVE}"),
    (b"ftrt", f"a TensorRT engine, whose weights cannot be read back; {_SAVE}"),
)


def checkpoint_format(path: Path) -> Format:
    """What `path` is, by its content and not by its ending; also finds safetensors and torch files that were cut off.

    It reads a header and a table of contents, so it takes milliseconds whatever the file's size. Damage in the midst of the
    weights is found only when they are loaded.

    Raises:
        CheckpointError: one line: no file, empty, cut off, or a file of another kind, with what to do about it.
    """
    if path.is_dir():
        raise CheckpointError(f"{path}: {_folder(path)}")
    try:
        size = path.stat().st_size
        with path.open("rb") as handle:
            start = handle.read(4096)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint file") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    if not start:
        raise CheckpointError(f"{path}: is empty, no checkpoint")
    if start[:4] == b"PK\x03\x04":
        _zip(path)
        return "torch"
    if start.startswith(_LEGACY):
        return "torch"
    if _is_safetensors(path, start, size):
        return "safetensors"
    raise CheckpointError(f"{path}: is not a whole checkpoint; it is {_other(path, start)}")


def _other(path: Path, start: bytes) -> str:
    told = next((told for sign, told in _STARTS if start.startswith(sign)), None)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if told is not None:
        return told
    if start[:1] == b"\x80":
        return f"a Python pickle, and loading it would run its code; {_SAVE}"
    if start[4:8] == b"TFL3":
        return f"a TensorFlow Lite model; {_SAVE}"
    if start[257:262] == b"ustar":
        return "a tar archive; unpack it first"
    if text.startswith((b"<!doctype html", b"<html")):
        return "an HTML page, perhaps a login or an error; download the file itself"
    if text.startswith(b"<"):
        return f"an XML file; {_SAVE}"
    if text.startswith(b"{"):
        if b'"weight_map"' in start:
            return "an index of weights that lie in several files beside it; merge those into one .safetensors"
        return "a JSON file, not the weights themselves"
    if path.suffix == ".onnx" or re.match(rb"\x08[\x03-\x14][\x12\x1a\x22\x3a]", start):
        return f"an ONNX graph; give the weights of the PyTorch network that it was exported from: {_SAVE}"
    return f"neither safetensors nor a torch file; {_SAVE}"


def _is_safetensors(path: Path, start: bytes, size: int) -> bool:
    """Is there a header of safetensors? One that is not whole is refused."""
    length = int.from_bytes(start[:8], "little")
    if path.suffix != ".safetensors" and (start[8:9] != b"{" or length >= 1 << 32):
        return False
    if size < 9 or start[8:9] != b"{":
        if any(start.startswith(sign) for sign, _ in _STARTS) or start.isascii():
            return False  # it is something else, and what is told elsewhere
        raise CheckpointError(
            f"{path}: is not a whole checkpoint (no header of safetensors); download or copy it again"
        )
    if 8 + length > size:
        raise _cut(path)
    try:
        with path.open("rb") as handle:
            handle.seek(8)
            header = json.loads(handle.read(length))
        end = max((t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"), default=0)
        whole = 8 + length + end == size  # whatever number it is
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise CheckpointError(f"{path}: is not a whole checkpoint (its header is no JSON of safetensors)") from error
    if not whole:
        raise _cut(path)
    return True


def _cut(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path}: is not a whole checkpoint (its length is not what its header says); download or copy it again"
    )


def _zip(path: Path) -> None:
    """Refuse zip archives that torch.save did not write."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(
            f"{path}: is not a whole checkpoint ({str(error).strip() or 'cut off'}); download or copy it again"
        ) from error
    ends = {name.partition("/")[2] for name in names}
    if "constants.pkl" in ends:
        raise CheckpointError(f"{path}: is a TorchScript archive, which holds code; from the original network, {_SAVE}")
    if "archive_format" in ends or "serialized_exported_program.json" in names:
        raise CheckpointError(f"{path}: is a program of torch.export; from the original network, {_SAVE}")
    if "model.weights.h5" in names:
        raise CheckpointError(f"{path}: is a Keras model; in PyTorch, {_SAVE}")
    if "data.pkl" not in ends:
        inside = ", ".join(names[:3]) or "nothing"
        raise CheckpointError(f"{path}: is a zip archive without a torch file in it ({inside}); unpack it first")


def _folder(path: Path) -> str:
    try:
        names = {p.name for p in path.iterdir()}
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if any(name.endswith(".distcp") for name in names):
        return (
            "a folder with a checkpoint of torch.distributed in shards; make one file of it: "
            "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE.pt"
        )
    inside = sorted(n for n in names if n.endswith((".safetensors", ".pt", ".pth", ".bin", ".ckpt")))
    return f"a folder, not a checkpoint; name a file in it{f', such as {inside[0]}' if inside else ''}"
