"""A progress bar with time left; plain lines where the output is no terminal."""

from __future__ import annotations

import os
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

_PAUSE = 2.0  # seconds between lines


class Progress:
    """`with Progress("dense", 700) as bar: bar.advance(loss)`."""

    def __init__(self, title: str, total: int, done: int = 0, quiet: bool = False, unit: str = "steps") -> None:
        quiet = quiet or os.environ.get("RANK", "0") != "0"  # of several processes the first one speaks
        self.title, self.total, self.done, self.quiet, self.unit = title, total, done, quiet, unit
        self.console = Console(stderr=True)
        self._began, self._first, self._loss, self._told = time.monotonic(), done, float("nan"), done
        self._spoke = self._began
        self._bar = Bar(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit + "{task.fields[loss]}"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=self.console,
            disable=quiet or not self.console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task(title, total=total, completed=done, loss="")

    def __enter__(self) -> Progress:
        if self.done and not self.quiet:
            self.console.print(f"{self.title}: going on from {self._place()}")
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self, loss: float) -> None:
        """One step is done."""
        self.done += 1
        self._loss = loss if self._loss != self._loss else 0.95 * self._loss + 0.05 * loss
        self._bar.update(self._task, completed=self.done, loss=f", loss {self._loss:.3f}")
        self._tell(f", loss {self._loss:.3f}")

    def move(self, count: int) -> None:
        """So many more are done, without a loss."""
        self.done += count
        self._bar.update(self._task, completed=self.done)
        if time.monotonic() - self._spoke >= _PAUSE:  # short ones need no lines
            self._tell("")

    def _tell(self, loss: str) -> None:
        """Where the output is no terminal: a line each tenth of the way."""
        if self.console.is_terminal or self.quiet or (self.done - self._told) * 10 < self.total:
            return
        now = time.monotonic()
        left = (now - self._began) / (self.done - self._first) * (self.total - self.done)
        self.console.print(f"{self.title}: {self._place()}{loss}, {left:.0f} s left")
        self._told, self._spoke = self.done, now

    def _place(self) -> str:
        return (
            f"step {self.done} of {self.total}" if self.unit == "steps" else f"{self.done} of {self.total} {self.unit}"
        )

    def say(self, line: str) -> None:
        """A line above the bar."""
        if not self.quiet:
            self.console.print(f"{self.title}: {line}")
