"""The link to an agent on this machine: a process of its own for every job, as on any other device."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.devices.agent import overheard, patience
from edgeprune.devices.answers import parsed
from edgeprune.errors import DeviceError, EngineError
from edgeprune.files import sha256, write_atomic
from edgeprune.shipped import shipped
from edgeprune.target import Target, another_module


class Here:
    """See `devices.agent.Link`. Graphs, and the engines beside them, lie by their checksums in `~/.cache/edgeprune/store/`."""

    name = "this machine"

    def __init__(self, target: Target) -> None:
        self.target = target
        self._store = Path.home() / ".cache" / "edgeprune" / "store"
        self._scratch = tempfile.TemporaryDirectory(prefix="edgeprune-")

    def unfit(self, hello: dict[str, Any]) -> str | None:
        """Another GPU or board than the target names: its milliseconds would be called the target's."""
        if reason := another_module(self.target, hello["fingerprint"].get("board")):
            return reason
        figures = self.target.catalogue
        wanted, found = figures and figures.compute_capability, (hello["gpu"] or {}).get("cc")
        if wanted is None or found is None or wanted == found:
            return None
        return f"this machine's GPU is of compute capability {found}, that of {self.target.name} of {wanted}"

    def put(self, files: Sequence[Path]) -> str:
        sums = {f: sha256(f) for f in files}
        lines = "".join(f"{digest}  {f.name}\n" for f, digest in sums.items())
        folder = self._store / hashlib.sha256(lines.encode()).hexdigest()[:24]
        for file, digest in sums.items():
            there = folder / file.name
            if not there.exists() or sha256(there) != digest:
                write_atomic(there, file.read_bytes())
        os.utime(folder)  # what nobody has asked for lately is removed
        return str(folder / files[0].name)

    def put_array(self, array: np.ndarray) -> str:
        path = Path(self._scratch.name) / "images.npy"
        np.save(path, np.ascontiguousarray(array), allow_pickle=False)
        return str(path)

    def take(self, path: str) -> bytes:
        content = Path(path).read_bytes()
        Path(path).unlink()
        return content

    def bring(self, path: str, home: Path) -> Path:
        brought = home / f"engine{Path(path).suffix}"
        write_atomic(brought, Path(path).read_bytes())
        return brought

    def job(self, name: str, told: dict[str, Any], seconds: int, keep: str = "") -> dict[str, Any]:
        python = sys.executable if self.target.python == "python3" else os.path.expanduser(self.target.python)
        words = [w for k, v in told.items() for w in (f"--{k}", str(v))]
        line = [python, "-B", str(shipped("deploy/on_device") / "agent.py"), name, *words]
        with contextlib.ExitStack() as stack:
            errors, said = stack.enter_context(overheard(self.name))
            try:
                process = stack.enter_context(
                    subprocess.Popen(line, stdout=subprocess.PIPE, stderr=errors, start_new_session=True)
                )
            except OSError as error:
                raise DeviceError(
                    f"{python} does not start: {error.strerror}; see python in the target's file"
                ) from error
            stack.callback(_end, process)
            try:
                out, _ = process.communicate(timeout=patience(told, seconds))
            except subprocess.TimeoutExpired as error:
                raise DeviceError(f"the agent gave no answer within {error.timeout:.0f} s") from error
        if process.returncode == 0:
            return parsed(out, self.name)
        if process.returncode == -signal.SIGALRM:
            raise DeviceError("the job took longer than it may; build_seconds, run_seconds of the target")
        lines = [x for x in b"".join(said).decode(errors="replace").splitlines() if x.strip()]
        raise EngineError(lines[-1].removeprefix("error: ") if lines else f"the agent ended with {process.returncode}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """A job whose caller was interrupted goes with it."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
