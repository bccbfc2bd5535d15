"""The device's lease: one measurement at a time on a machine, whichever process or user it belongs to."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

from edgeprune.errors import DeviceError
from edgeprune.progress import doing

_HERE = threading.RLock()  # within this process
_SOON = 1.0  # seconds of waiting that are not worth a line


def path() -> Path:
    """The file that is locked; the agent of ssh targets locks the same one."""
    # not the user's own TMPDIR: all users must find the same file
    return Path(os.environ.get("EDGEPRUNE_LEASE", "/tmp/edgeprune.lease"))


def _opened() -> int:
    """The file's descriptor. Linux lets nobody, root neither, open another user's file in /tmp as one to create."""
    try:
        handle = os.open(path(), os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        try:
            handle = os.open(path(), os.O_RDWR | os.O_NOFOLLOW | os.O_CREAT, 0o666)
        except OSError as error:
            raise DeviceError(
                f"{path()}: cannot be made for the lease ({error.strerror}); set EDGEPRUNE_LEASE to a file that can be written"
            ) from error
    except OSError as error:
        raise DeviceError(
            f"{path()}: cannot be opened for the lease ({error.strerror}); a link? remove it, or set EDGEPRUNE_LEASE"
        ) from error
    told = os.fstat(handle)
    if not stat.S_ISREG(told.st_mode) or told.st_nlink != 1:  # the folder is everybody's
        os.close(handle)
        raise DeviceError(f"{path()}: no file of its own (a link?) where the lease belongs; remove it")
    return handle


def check() -> None:
    """Can the file be opened, or made?

    Raises:
        DeviceError: it cannot.
    """
    os.close(_opened())


def _lock(handle: int, how: int, waiting: str) -> None:
    """Lock the file; who has to wait says for whom, soon and then as often as `progress.doing` does."""
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except BlockingIOError:
        with doing(lambda: f"{waiting} {_holder(handle)}, which measures on this machine", soon=_SOON):
            fcntl.flock(handle, how)


def _holder(handle: int) -> str:
    """Whose lease it is: "process 4711 (edgeprune run quickstart)"."""
    pid = os.pread(handle, 20, 0).decode(errors="replace").strip()
    if not pid.isdecimal():  # it is just being taken
        return "another process"
    try:
        command = Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return f"process {pid}"
    return f"process {pid} ({''.join(c if c.isprintable() else ' ' for c in command)[:80].strip()})"


def give_way() -> None:
    """Wait while another process measures. Trainings call it at every step: beside them, engines take other times, and small ones
    other shares of large ones'."""
    with contextlib.suppress(OSError):  # nobody has measured yet; what else may be wrong with it, measuring will say
        handle = os.open(path(), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            _lock(handle, fcntl.LOCK_SH, "the training stands still for")
        finally:
            os.close(handle)


@contextlib.contextmanager
def lease() -> Iterator[None]:
    """Wait until nobody measures, and hold the machine; the lease goes with the process, also by kill -9."""
    with _HERE:
        handle = _opened()
        try:
            with contextlib.suppress(OSError):
                os.fchmod(handle, 0o666)  # another user's measurement waits for this one, too
            _lock(handle, fcntl.LOCK_EX, "waiting for")
            os.ftruncate(handle, 0)
            os.pwrite(handle, str(os.getpid()).encode(), 0)
            yield
        finally:
            os.close(handle)
