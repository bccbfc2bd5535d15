"""The limited time that a run spends on waiting for a quiet machine; every wait is told in a line."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from edgeprune.errors import UsageError

LIMIT = 300.0  # seconds of a run; $EDGEPRUNE_PATIENCE takes its place
_PAUSES = (5.0, 10.0, 20.0, 40.0, 60.0)  # the last one again and again


class Patience:
    """What is left of it.

    Args:
        say: takes a line for people.
        seconds: in all.
        sleep: waits so many seconds.
    """

    def __init__(
        self, say: Callable[[str], object], seconds: float | None = None, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self.limit = limit() if seconds is None else seconds
        self._say, self._sleep, self.waited, self._count = say, sleep, 0.0, 0

    def wait(self, why: str) -> bool:
        """Say why, and wait for a while, longer every time; False where nothing is left to wait with."""
        pause = min(_PAUSES[min(self._count, len(_PAUSES) - 1)], self.limit - self.waited)
        if pause <= 0:
            return False
        self._say(
            f"{why}: not believed; waiting {pause:.0f} s for a quieter machine, then it is measured again (waited {self.waited:.0f} s of "
            f"at most {self.limit:.0f})"
        )
        self._sleep(pause)
        self.waited += pause
        self._count += 1
        return True


def limit() -> float:
    """Seconds that a run may wait in all.

    Raises:
        UsageError: $EDGEPRUNE_PATIENCE is no number of seconds.
    """
    told = os.environ.get("EDGEPRUNE_PATIENCE", "")
    try:
        seconds = float(told or LIMIT)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise UsageError(f"EDGEPRUNE_PATIENCE: {told!r}; give seconds, such as 600, or 0 to wait for nothing")
    return seconds
