"""Was a measurement disturbed? Threads that are ready to run and wait, because others hold the processor, tell.

A call of a few milliseconds that is cut into by another program takes the other one's time slice longer, and the longer of
two engines is cut into more often: under load even the ratio of interleaved pairs is wrong, and narrowly so. Linux keeps count of
that wait for every thread; calls that waited are left out.
"""

from __future__ import annotations

import os

import numpy as np

SHARE = 0.02  # of a call's time that its threads may have waited


def waited() -> float:
    """Milliseconds that this process's threads have waited for a processor so far; 0 where the system does not tell."""
    total = 0
    try:
        threads = os.listdir("/proc/self/task")
    except OSError:
        return 0.0
    for thread in threads:
        try:
            with open(f"/proc/self/task/{thread}/schedstat") as told:
                total += int(told.read().split()[1])
        except (OSError, IndexError, ValueError):  # a thread that has just ended
            continue
    return total / 1e6


def undisturbed(times: np.ndarray, waits: np.ndarray, least: int) -> np.ndarray:
    """(N,) of booleans: calls that waited for at most `SHARE` of their time; the `least` that waited least where they are fewer.

    Args:
        times, waits: (N,) milliseconds of each call, and of its threads' waiting.
    """
    share = np.asarray(waits) / np.maximum(times, 1e-9)
    clean = share <= SHARE
    if clean.sum() < min(least, len(share)):
        clean = np.zeros(len(share), dtype=bool)
        clean[np.argsort(share, kind="stable")[:least]] = True
    return clean
