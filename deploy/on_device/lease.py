"""The device's lease: one measurement at a time, whichever program, user or connection it belongs to. stdlib only."""

import contextlib
import fcntl
import os
import stat
import time

# not the user's own TMPDIR: all users must find the same file
LEASE = os.environ.get("EDGEPRUNE_LEASE", "/tmp/edgeprune.lease")


def opened():
    """The file's descriptor. Linux lets nobody, root neither, open another user's file in /tmp as one to create."""
    try:
        handle = os.open(LEASE, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        handle = os.open(LEASE, os.O_RDWR | os.O_NOFOLLOW | os.O_CREAT, 0o666)
    except OSError as error:
        raise RuntimeError(
            "%s: cannot be opened for the lease (%s); a link? remove it" % (LEASE, error.strerror)
        ) from error
    told = os.fstat(handle)
    if not stat.S_ISREG(told.st_mode) or told.st_nlink != 1:  # the folder is everybody's
        os.close(handle)
        raise RuntimeError("%s: no file of its own (a link?) where the lease belongs; remove it" % LEASE)
    return handle


@contextlib.contextmanager
def lease(wait):
    """Hold the device; it goes with the process, however that ends. Raises RuntimeError after so many seconds."""
    handle = opened()
    with contextlib.suppress(OSError):
        os.fchmod(handle, 0o666)  # another user's measurement must be able to wait for this one
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
