"""Ctrl-C while modules are imported: one line and status 130, where Python would show a trace of whatever it was importing.

Imports take seconds and run code of others, some of which swallows KeyboardInterrupt or makes another error of it. There is nothing
to clean up yet, so the process ends at once.
"""

from __future__ import annotations

import os
import signal
from typing import Any

STATUS = 130  # as shells have it
LINE = "stopped; the same command goes on from here"


def end_at_once() -> None:
    """From now on; unless whoever started the process wants interrupts ignored (nohup)."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def raise_again() -> None:
    """KeyboardInterrupt from now on: work begins that has something to put away."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: Any) -> None:
    os.write(2, f"{LINE}\n".encode())
    os._exit(STATUS)
