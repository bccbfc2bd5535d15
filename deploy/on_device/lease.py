"""The device's lease: one measurement at a time, whichever program, user or connection it belongs to. stdlib only."""

import contextlib
import errno
import fcntl
import os
import stat
import sys
import time

# not the user's own TMPDIR: all users must find the same file
LEASE = os.environ.get("EDGEPRUNE_LEASE", "/tmp/edgeprune.lease")
WAITING = "waiting for"  # how the lines begin that a host passes on from its agent
SOON, OFTEN = 1, 10  # seconds


def opened():
    """The file's descriptor. Linux lets nobody, root neither, open another user's file in /tmp as one to create."""
    try:
        try:
            handle = os.open(LEASE, os.O_RDWR | os.O_NOFOLLOW)
        except FileNotFoundError:
            handle = os.open(LEASE, os.O_RDWR | os.O_NOFOLLOW | os.O_CREAT, 0o666)
    except OSError as error:
        why = error.strerror if error.errno != errno.ELOOP else "it is a link; remove it"
        raise RuntimeError("%s: cannot be opened for the lease: %s" % (LEASE, why)) from error
    told = os.fstat(handle)
    if not stat.S_ISREG(told.st_mode) or told.st_nlink != 1:  # the folder is everybody's
        os.close(handle)
        raise RuntimeError("%s: no file of its own (a link?) where the lease belongs; remove it" % LEASE)
    return handle


def holder(handle):
    """Whose lease it is: "process 4711 (python3 check.py)"."""
    pid = os.pread(handle, 20, 0).decode(errors="replace").strip()
    if not pid.isdecimal():  # it is just being taken
        return "another process"
    try:
        with open("/proc/%s/cmdline" % pid, errors="replace") as told:
            command = told.read()
    except OSError:
        return "process %s" % pid
    return "process %s (%s)" % (pid, "".join(c if c.isprintable() else " " for c in command)[:80].strip())


@contextlib.contextmanager
def lease(wait):
    """Hold the device; it goes with the process, however that ends. Raises RuntimeError after so many seconds.

    Who has to wait says on standard error for whom: after `SOON` seconds, and then every `OFTEN` seconds.
    """
    handle = opened()
    with contextlib.suppress(OSError):
        os.fchmod(handle, 0o666)  # another user's measurement must be able to wait for this one
    began = time.time()
    due = began + SOON
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                now = time.time()
                if now > began + wait:
                    raise RuntimeError("another measurement holds the device: %s" % holder(handle)) from None
                if now >= due:
                    told = (WAITING, holder(handle), now - began)
                    print("%s %s, which measures on this machine: %.0f s so far" % told, file=sys.stderr, flush=True)
                    due = now + OFTEN
                time.sleep(0.2)
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)
