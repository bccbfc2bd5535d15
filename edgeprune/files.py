"""Atomic writes, hashes and the run's lock. Files are written beside and renamed, never in place."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from edgeprune.errors import DataError, EdgepruneError, RunLockedError

if TYPE_CHECKING:
    import torch


_FULL = 1 << 20  # bytes
_DEEPEST = 100  # levels of JSON inside each other
SEAL = "digest"  # the key of a sealed record that holds it
_NO_SPACE = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT), "os error 28", "StorageFull", "iostream error")


def replace_with(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file beside `path`, then rename it into place; nothing half-written stays."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write(beside)
            with open(beside, "rb") as handle:
                os.fsync(handle.fileno())
            os.replace(beside, path)
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """What fails of the disk or of rights while `path` is written is one line.

    Raises:
        EdgepruneError: names it.
    """
    try:
        yield
    except Exception as error:
        if no_space(error, path.parent):
            raise EdgepruneError(f"disk full: cannot write {path}; free some space and run again") from error
        if isinstance(error, OSError):
            raise EdgepruneError(f"cannot write {path}: {error.strerror or error}") from error
        raise


def no_space(error: BaseException, folder: Path) -> bool:
    """Did a writer fail because the disk is full?

    Writers in C++ and Rust have errors of their own for it, of which only the text tells; and some reserve or remove the whole file,
    so that megabytes are free again by then.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(text in str(cause) for text in _NO_SPACE):
            return True
        cause = cause.__cause__ or cause.__context__
    try:
        return shutil.disk_usage(folder).free < _FULL
    except OSError:  # there is no such folder
        return False


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write bytes or text."""
    raw = data.encode() if isinstance(data, str) else data

    def write(beside: Path) -> None:
        beside.write_bytes(raw)

    replace_with(Path(path), write)


def write_json(path: Path, obj: Any) -> None:
    """Write JSON with sorted layout, one key a line."""
    write_atomic(Path(path), json.dumps(obj, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; what is missing, truncated, no JSON, or holds NaN is named in one line."""
    try:
        return parse_json(Path(path).read_bytes())
    except FileNotFoundError as error:
        raise EdgepruneError(f"{path}: no such file") from error
    except OSError as error:
        raise EdgepruneError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise EdgepruneError(f"{path}: not whole JSON ({error}); delete it and run again") from error


def parse_json(text: bytes) -> Any:
    """Parse JSON as the standard has it: UTF-8, and no NaN or Infinity.

    Raises:
        ValueError: it is not that, or nested deeper than anything that is written here.
    """

    def finite(digits: str) -> float:
        if not math.isfinite(number := float(digits)):
            raise ValueError(f"{digits[:20]} is no number of JSON's")
        return number

    try:
        value = json.loads(text.decode("utf-8"), parse_constant=finite, parse_float=finite)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    level, depth = [value], 0
    while level := [inner for outer in level for inner in _held(outer) if isinstance(inner, (dict, list))]:
        depth += 1
        if depth >= _DEEPEST:
            raise ValueError("nested too deeply")
    if b"\\u" in text:  # only so can JSON hold half of a pair of surrogates, which nothing can write
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("a text in it is not Unicode") from error
    return value


def _held(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def seal(record: dict[str, Any]) -> dict[str, Any]:
    """The record with a digest over all of it, so that `sealed` tells a changed one. It guards against accidents and careless edits."""
    return record | {SEAL: _digest(record)}


def sealed(record: Any) -> TypeGuard[dict[str, Any]]:
    """Is it a record that `seal` gave, unchanged?"""
    return isinstance(record, dict) and record.get(SEAL) == _digest({k: v for k, v in record.items() if k != SEAL})


def _digest(record: dict[str, Any]) -> str:
    return hash_obj(json.loads(json.dumps(record)))  # as it will be read: keys are strings, tuples are lists


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def hash_obj(obj: Any) -> str:
    """Hex digest of a JSON-able object, independent of key order."""
    return hashlib.sha256(json.dumps(obj, sort_keys=True, default=str).encode()).hexdigest()


def files_below(root: Path) -> Iterator[Path]:
    """Every file in a folder, in linked folders too (data sets are often put together of links), each folder once."""
    os.listdir(
        root
    )  # a folder below that cannot be read, such as a disk's lost+found, is passed over, but not all of it
    seen = {os.path.realpath(root)}
    for folder, names, files in os.walk(root, followlinks=True):
        names[:] = sorted(
            n for n in names if (real := os.path.realpath(Path(folder, n))) not in seen and not seen.add(real)
        )
        yield from (path for n in files if (path := Path(folder, n)).is_file())


def hash_tree(root: Path, *, looked_at: int = 512) -> str:
    """Hash of a data set's names and sizes, and of the last 4 KiB of at most `looked_at` of its files, evenly spread.

    Not of times, so that a copy of the data is the same data. Compressed images end in a checksum (PNG) or in bits that
    depend on all before them (JPEG); reading every file would take minutes on a slow disk.
    """
    try:
        files = sorted(files_below(root)) if root.is_dir() else [root] if root.is_file() else []
        found = [(str(path.relative_to(root)), path.stat().st_size) for path in files]
    except OSError as error:
        raise DataError(f"data.root: {error.filename or root} cannot be read ({error.strerror})") from error
    if not files:
        raise DataError(f"data.root: {root} holds no files; is it there, and its disk mounted?")
    every = max(1, -(-len(files) // looked_at))
    ends = hashlib.sha256()
    for path, (_, size) in zip(files[::every], found[::every], strict=True):
        with contextlib.suppress(PermissionError), open(path, "rb") as handle:  # whoever needs the file will say so
            handle.seek(max(0, size - 4096))
            ends.update(handle.read())
    return hash_obj([found, ends.hexdigest()])


def save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write safetensors atomically; of a network's state without its extra state, which need not be tensors."""
    from safetensors.torch import save_file

    whole = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items() if not k.endswith("_extra_state")}
    replace_with(Path(path), lambda p: save_file(whole, p))


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read safetensors; a truncated file is named in one line."""
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise EdgepruneError(f"{path}: no such file") from error
    except Exception as error:
        raise EdgepruneError(f"{path}: not whole safetensors ({error}); delete it and run again") from error


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a run's folder; a second run into it is refused. The lock goes with the process, also by kill -9."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".lock").touch()
    except OSError as error:
        raise EdgepruneError(f"cannot write {folder}: {error.strerror}; choose another --runs-dir") from error
    with open(folder / ".lock", "a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            handle.seek(0)
            raise RunLockedError(
                f"{folder}: another run (process {handle.read().strip() or 'unknown'}) is using it; wait for it, or "
                "choose another --runs-dir"
            ) from error
        with writing(folder / ".lock"):
            handle.seek(0)
            handle.truncate()
            handle.write(str(os.getpid()))
            handle.flush()
        yield
