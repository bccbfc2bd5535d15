"""The link to an agent on another machine, over ssh.

What is sent lies under `~/.cache/edgeprune/` on the device by its checksum: scripts and models are checked against it
before every job, an upload that broke off goes on where it stopped, and the answer of a job whose connection broke is
fetched again. Host keys are checked by ssh itself; a host that it does not know is refused. The first command opens the
connection, the others share it (`ControlMaster`): a run has a hundred of them, and a board takes up to a second for each
handshake.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import shlex
import subprocess
import tempfile
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.devices.agent import SCRIPTS, overheard, patience
from edgeprune.devices.answers import parsed
from edgeprune.errors import DeviceError, EngineError
from edgeprune.files import hash_obj, sha256, write_atomic
from edgeprune.shipped import shipped
from edgeprune.target import Target, another_module

ROOT = ".cache/edgeprune"  # of the user's home on the device
_TRIES, _PAUSE = 4, 2.0
_PERSIST = 60  # seconds that the shared connection outlives the last command, should nobody hang up
_ANSWER = "edgeprune-answers"
_BROKEN = 255  # ssh's own exit status for a connection that failed
_OPTIONS = ("-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=15",
            "-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3")  # fmt: skip


class Ssh:
    """The link to a target with `host:`; see `devices.agent.Link`."""

    def __init__(self, target: Target) -> None:
        assert target.host is not None
        self.target, self.name = target, target.host
        self._there: set[str] = set()
        self._private = None if _has_a_say(target) else _private_folder()
        shared: list[str] = []
        if self._private is not None:
            control = Path(self._private.name) / "ssh"
            for option in ("ControlMaster=auto", f"ControlPath={control}", f"ControlPersist={_PERSIST}"):
                shared += ["-o", option]
            self._hang_up = weakref.finalize(self, _hang_up, control)
        self._line = ["ssh", *_OPTIONS, *target.ssh, *shared, "--", target.host]

    def unfit(self, hello: dict[str, Any]) -> str | None:
        """Another Jetson module than the target's; else who names a host says that it is the device."""
        return another_module(self.target, hello["fingerprint"].get("board"))

    def bring(self, path: str, home: Path) -> None:
        """An engine stays where it runs."""

    def take(self, path: str) -> bytes:
        content = self._ssh(f"cat {shlex.quote(path)}", 300)
        self._ssh(f"rm -f {shlex.quote(path)}", 60)
        return content

    def job(self, name: str, told: dict[str, Any], seconds: int, keep: str = "") -> dict[str, Any]:
        scripts = self.put([shipped("deploy/on_device") / n for n in SCRIPTS])
        folder = scripts.rsplit("/", 1)[0]
        asked = {k: v for k, v in told.items() if k not in ("limit", "wait", "cool")}
        number = hash_obj([name, asked, folder, keep or time.time_ns()])[:24]
        words = [w for k, v in (told | {"answer": f"{ROOT}/answers/{number}.json"}).items() for w in (f"--{k}", str(v))]
        checks = {folder, *(str(told[k]).rsplit("/", 1)[0] for k in ("model", "other", "image") if k in told)}
        check = " && ".join(f"(cd {shlex.quote(d)} && sha256sum -c --quiet SHA256SUMS)" for d in sorted(checks))
        python = self.target.python.removeprefix("~/")  # it is run in the home folder
        line = shlex.join([python, scripts, name, *words])
        return parsed(self._ssh(f"mkdir -p {ROOT}/answers && {check} && {line}", patience(told, seconds)), self.name)

    def put(self, files: Sequence[Path]) -> str:
        """Put files into a folder named by their checksums; gives the first one's path there."""
        sums = "".join(f"{sha256(f)}  {f.name}\n" for f in files)
        folder = f"{ROOT}/store/{hashlib.sha256(sums.encode()).hexdigest()[:24]}"
        if folder not in self._there:
            done = f"touch -c {folder} && test -f {folder}/SHA256SUMS && (cd {folder} && sha256sum -c --quiet SHA256SUMS 2>/dev/null) && echo yes"
            if self._ssh(f"({done}) || true", 120).strip() != b"yes":
                try:
                    self._send(files, folder, sums, "part")
                except EngineError:  # another process was sending the same: both wrote to one file
                    self._send(files, folder, sums, f"{time.time_ns()}.part")
            self._there.add(folder)
        return f"{folder}/{files[0].name}"

    def put_array(self, array: np.ndarray) -> str:
        with tempfile.TemporaryDirectory() as folder:
            held = io.BytesIO()
            np.save(held, np.ascontiguousarray(array), allow_pickle=False)
            path = Path(folder) / "images.npy"
            write_atomic(path, held.getvalue())
            return self.put([path])

    def _send(self, files: Sequence[Path], folder: str, sums: str, part: str) -> None:
        self._ssh(f"mkdir -p {folder}", 60)
        for file in files:
            self._upload(file, f"{folder}/{file.name}", f"{folder}/{file.name}.{part}")
        self._ssh(f"cat > {folder}/SHA256SUMS && cd {folder} && sha256sum -c --quiet SHA256SUMS", 120, sums.encode())

    def _upload(self, file: Path, there: str, part: str) -> None:
        """Send a file; what an earlier attempt has left at `part` is kept."""
        content, part = file.read_bytes(), shlex.quote(part)
        for attempt in range(_TRIES):
            size = int(self._ssh(f"stat -c %s {part} 2>/dev/null || echo 0", 60) or 0)
            size = 0 if size > len(content) else size
            keep = f"truncate -s {size} {part} 2>/dev/null || : > {part}"
            try:
                self._once(f"{keep}; cat >> {part} && mv {part} {shlex.quote(there)}", 3600, content[size:])
                return
            except _Broken as error:
                if attempt == _TRIES - 1:
                    raise DeviceError(
                        f"{self.name}: the connection broke while sending {file.name}: {error}"
                    ) from error
                time.sleep(_PAUSE * 2**attempt)

    def _ssh(self, command: str, seconds: float, data: bytes = b"") -> bytes:
        """Run a command there; broken connections are tried again."""
        for attempt in range(_TRIES):
            try:
                return self._once(command, seconds, data)
            except _Broken as error:
                if error.final or attempt == _TRIES - 1:
                    raise DeviceError(f"{self.name}: {error}") from error
                time.sleep(_PAUSE * 2**attempt)
        raise AssertionError

    def _once(self, command: str, seconds: float, data: bytes = b"") -> bytes:
        # before our answer stands whatever the board's shell prints when it starts (an echo in .bashrc)
        line = [*self._line, f"echo {_ANSWER} && cd && {{ {command}; }}"]
        try:
            with overheard(self.name) as (errors, said):
                done = subprocess.run(
                    line, input=data, stdout=subprocess.PIPE, stderr=errors, timeout=seconds, check=False
                )
        except FileNotFoundError as error:
            raise DeviceError("ssh is not installed on this machine") from error
        except subprocess.TimeoutExpired as error:
            raise DeviceError(f"{self.name}: no answer within {seconds:.0f} s") from error
        if done.returncode == 0:
            return done.stdout.partition(f"{_ANSWER}\n".encode())[2]
        told = b"".join(said).decode(errors="replace")
        lines = told.strip().splitlines()
        last = next((x for x in reversed(lines) if x.strip()), f"exit status {done.returncode}")
        if done.returncode == _BROKEN:
            known = "Host key verification failed" in told
            if known:
                last = f"its host key is not known or has changed; run `ssh {self.name}` once and compare the key"
            raise _Broken(last, final=known or "Permission denied" in last)
        if done.returncode in (142, 14) or "Alarm clock" in last:
            raise DeviceError(f"{self.name}: the job took longer than it may; build_seconds, run_seconds of the target")
        raise EngineError(f"{self.name}: {last.removeprefix('error: ')}")


def _has_a_say(target: Target) -> bool:
    """Have the user's options or ssh's own files a say in sharing connections? (`-v` would make a shared one hold our pipe.)"""
    if any("control" in word.lower() or word.startswith(("-S", "-M", "-v")) for word in target.ssh):
        return True
    try:
        told = subprocess.run(
            ["ssh", "-G", *target.ssh, "--", str(target.host)], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return True
    return any(line.startswith("controlpath ") and line != "controlpath none" for line in told.stdout.splitlines())


def _private_folder() -> tempfile.TemporaryDirectory[str] | None:
    """A folder whose path ssh takes for a socket: short, without spaces or signs that it would expand; None where there is none."""
    for home in (tempfile.gettempdir(), "/tmp"):
        if re.fullmatch(r"[\w./+-]{1,60}", home, re.ASCII):
            with contextlib.suppress(OSError):
                return tempfile.TemporaryDirectory(prefix="edgeprune-", dir=home, ignore_cleanup_errors=True)
    return None


def _hang_up(control: Path) -> None:
    """End the shared connection, where there is one."""
    if control.exists():
        line = ["ssh", "-O", "exit", "-o", f"ControlPath={control}", "any"]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(line, capture_output=True, check=False, timeout=10)


class _Broken(Exception):
    """The connection failed; `final` where trying again is useless."""

    def __init__(self, message: str, final: bool = False) -> None:
        super().__init__(message)
        self.final = final
