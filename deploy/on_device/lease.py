"""The device's lease: one measurement at a time, whichever program, user or connection it belongs to. stdlib only."""

import contextlib
import fcntl
import os
import tempfile
import time

LEASE = os.environ.get("EDGEPRUNE_LEASE", os.path.join(tempfile.gettempdir(), "edgeprune.lease"))


def opened():
    """The file's descriptor. Linux lets nobody, root neither, open another user's file in /tmp as one to create."""
    try:
        return os.open(LEASE, os.O_RDWR)
    except FileNotFoundError:
        return os.open(LEASE, os.O_RDWR | os.O_CREAT, 0o666)


@contextlib.contextmanager
def lease(wait):
    """Hold the device; it goes with the process, however that ends. Raises RuntimeError after so many seconds."""
    handle = opened()
    with contextlib.suppress(OSError):
        os.chmod(LEASE, 0o666)  # another user's measurement must be able to wait for this one
    until = time.time() + wait
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.time() > until:
                    holder = os.pread(handle, 20, 0).decode().strip() or "unknown"
                    raise RuntimeError("another measurement (process %s) holds the device" % holder) from None
                time.sleep(0.2)
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)
