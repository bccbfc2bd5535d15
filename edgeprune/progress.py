"""A progress bar with time left; plain lines where the output is no terminal."""

from __future__ import annotations

import os
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar


class Progress:
    """`with Progress("dense", 700) as bar: bar.advance(loss)`."""

    def __init__(self, title: str, total: int, done: int = 0, quiet: bool = False, unit: str = "steps") -> None:
        quiet = quiet or os.environ.get("RANK", "0") != "0"  # of several processes the first one speaks
        self.title, self.total, self.done, self.quiet = title, total, done, quiet
        self.console = Console(stderr=True)
        self._began, self._first, self._loss, self._told = time.monotonic(), done, float("nan"), done
        self._bar = Bar(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit + "{task.fields[loss]}"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=self.console,
            disable=quiet or not self.console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task(title, total=total, completed=done, loss="")

    def __enter__(self) -> Progress:
        if self.done and not self.quiet:
            self.console.print(f"{self.title}: going on from step {self.done} of {self.total}")
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
        if not self.console.is_terminal and not self.quiet and (self.done - self._told) * 10 >= self.total:
            left = (time.monotonic() - self._began) / (self.done - self._first) * (self.total - self.done)
            self.console.print(
                f"{self.title}: step {self.done} of {self.total}, loss {self._loss:.3f}, {left:.0f} s left"
            )
            self._told = self.done

    def move(self, count: int) -> None:
        """So many more are done, without a loss."""
        self.done += count
        self._bar.update(self._task, completed=self.done)

    def say(self, line: str) -> None:
        """A line above the bar."""
        if not self.quiet:
            self.console.print(f"{self.title}: {line}")
