"""Locking the clocks to the active power mode's most, by `jetson_clocks`, and giving them back whatever happens. stdlib only.

Only where the user asks (`--lock-clocks`). The power mode itself is never changed: some changes want a reboot. What was
set before is stored in a file first; if this program is killed, the next start (any of this folder's programs that lock)
restores from that file, and `python3 clocks.py restore` does it by hand.
"""

import sys

if __name__ == "__main__":  # before any other import: what lies here may have the name of any of Python's own modules
    with open((__file__.rpartition("/")[0] or ".") + "/isolate.py", "rb") as isolate:
        exec(compile(isolate.read(), isolate.name, "exec"), {"__file__": isolate.name, "__name__": "isolate"})

import contextlib
import os
import shutil
import signal
import subprocess

# root writes it and its user removes it, which a shared folder such as /tmp forbids; nor must others be able to put one there
STORE = os.environ.get("EDGEPRUNE_CLOCKS", os.path.join(os.path.expanduser("~"), ".cache", "edgeprune", "clocks"))


def tool(*args):
    """Run jetson_clocks, by sudo where needed, without asking for a password; raises RuntimeError with one line."""
    program = shutil.which("jetson_clocks")
    if not program:
        raise RuntimeError("--lock-clocks: jetson_clocks is not here; is this a Jetson, and /usr/bin on the PATH?")
    command = [program, *args] if os.geteuid() == 0 else ["sudo", "-n", program, *args]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        raise RuntimeError("--lock-clocks: jetson_clocks cannot be run: %s" % error) from error
    if done.returncode:
        lines = done.stdout.decode(errors="replace").strip().splitlines() or ["exit status %d" % done.returncode]
        raise RuntimeError("--lock-clocks: %s; root is needed: run it with sudo" % lines[-1])


def restore():
    """Give the clocks back as they were stored; True where there was something to give back."""
    if not os.path.exists(STORE):
        return False
    tool("--restore", STORE)
    os.remove(STORE)
    return True


@contextlib.contextmanager
def locked(wanted):
    """The body runs with locked clocks where wanted; they are restored after it, also on errors, Ctrl-C and SIGTERM."""
    if not wanted:
        yield
        return
    restore()  # of a run that was killed
    before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGHUP)}

    def leave(number, frame):
        raise SystemExit(128 + number)  # unwinds to the restore below; by itself the signal would not

    os.makedirs(os.path.dirname(STORE), exist_ok=True)
    tool("--store", STORE)
    try:
        for number in before:
            signal.signal(number, leave)
        tool()
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        restore()


if __name__ == "__main__":
    if sys.argv[1:] != ["restore"]:
        sys.exit("usage: python3 clocks.py restore      gives clocks back that a killed run left locked")
    print("restored" if restore() else "nothing to restore: %s is not there" % STORE)
