"""The device's lease: one measurement at a time on a machine, whichever process or user it belongs to."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from edgeprune.errors import DeviceError
from edgeprune.progress import console, doing

_HERE = threading.RLock()  # within this process
_beside = False  # has the training gone on beside a lease that was held for too long, and still is?
_SOON = 1.0  # seconds of waiting that are not worth a line
_OFTEN = 0.1  # seconds between two tries
_STANDS_STILL = 600.0  # seconds that a training waits; a measurement of our own is done in a few minutes
_PATIENCE = 3600.0  # seconds that a measurement waits for others, several of them perhaps


def path() -> Path:
    """The file that is locked; the agent of ssh targets locks the same one."""
    # not the user's own TMPDIR: all users must find the same file
    return Path(os.environ.get("EDGEPRUNE_LEASE", "/tmp/edgeprune.lease"))


def _opened() -> int:
    """The file's descriptor. Linux lets nobody, root neither, open another user's file in /tmp as one to create."""
    try:
        try:
            handle = os.open(path(), os.O_RDWR | os.O_NOFOLLOW)
        except FileNotFoundError:
            handle = os.open(path(), os.O_RDWR | os.O_NOFOLLOW | os.O_CREAT, 0o666)
    except OSError as error:
        why = error.strerror if error.errno != errno.ELOOP else "it is a link; remove it"
        raise DeviceError(
            f"{path()}: cannot be opened for the lease, which EDGEPRUNE_LEASE may put elsewhere: {why}"
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


def _lock(handle: int, how: int, waiting: str, most: float) -> bool:
    """Lock the file within `most` seconds; False where another process holds it all that time. Who has to wait says for whom, soon and
    then as often as `progress.doing` does."""
    if _locked(handle, how):
        return True
    end = time.monotonic() + most
    with doing(lambda: f"{waiting} {_holder(handle)}, which measures on this machine", soon=_SOON):
        while time.monotonic() < end:
            time.sleep(_OFTEN)
            if _locked(handle, how):
                return True
    return False


def _locked(handle: int, how: int) -> bool:
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


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
    """Wait while another process measures, but not for one that never ends. Trainings call it at every step: beside them, engines take
    other times, and small ones other shares of large ones'."""
    global _beside
    with contextlib.suppress(OSError):  # nobody has measured yet; what else may be wrong with it, measuring will say
        handle = os.open(path(), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            most = 0.0 if _beside else _STANDS_STILL
            free = _lock(handle, fcntl.LOCK_SH, "the training stands still for", most)
            if not free and not _beside:
                line = f"the training goes on beside {_holder(handle)}, which has held {path()} for {_STANDS_STILL / 60:.0f} minutes"
                console().print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
            _beside = not free
        finally:
            os.close(handle)


@contextlib.contextmanager
def lease() -> Iterator[None]:
    """Wait until nobody measures, and hold the machine; the lease goes with the process, also by kill -9.

    Raises:
        DeviceError: another process has held it for an hour.
    """
    with _HERE:
        handle = _opened()
        try:
            with contextlib.suppress(OSError):
                os.fchmod(handle, 0o666)  # another user's measurement waits for this one, too
            if not _lock(handle, fcntl.LOCK_EX, "waiting for", _PATIENCE):
                raise DeviceError(
                    f"{path()}: {_holder(handle)} has held the lease for {_PATIENCE / 60:.0f} minutes; end that process, or set "
                    "EDGEPRUNE_LEASE to another file where the two cannot disturb each other"
                )
            os.ftruncate(handle, 0)
            os.pwrite(handle, str(os.getpid()).encode(), 0)
            yield
        finally:
            os.close(handle)
