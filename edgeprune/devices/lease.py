"""The device's lease: one measurement at a time on a machine, whichever process or user it belongs to."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

_HERE = threading.RLock()  # within this process


def path() -> Path:
    """The file that is locked; the agent of ssh targets locks the same one."""
    return Path(os.environ.get("EDGEPRUNE_LEASE", Path(tempfile.gettempdir()) / "edgeprune.lease"))


def _opened() -> int:
    """The file's descriptor. Linux lets nobody, root neither, open another user's file in /tmp as one to create."""
    try:
        return os.open(path(), os.O_RDWR)
    except FileNotFoundError:
        return os.open(path(), os.O_RDWR | os.O_CREAT, 0o666)


@contextlib.contextmanager
def lease() -> Iterator[None]:
    """Wait until nobody measures, and hold the machine; the lease goes with the process, also by kill -9."""
    with _HERE:
        handle = _opened()
        try:
            with contextlib.suppress(OSError):
                os.chmod(path(), 0o666)  # another user's measurement waits for this one, too
            fcntl.flock(handle, fcntl.LOCK_EX)
            os.ftruncate(handle, 0)
            os.pwrite(handle, str(os.getpid()).encode(), 0)
            yield
        finally:
            os.close(handle)
