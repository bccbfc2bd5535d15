"""What the program says while it works: lines, bars with the time left, and what it is at where nothing else was said for a while.

Every console of the program is made here. Where the output is no terminal it prints plain lines, so that logs can be searched: never
wrapped, without colour codes, whatever COLUMNS and FORCE_COLOR say.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import IO, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

SILENCE = 10.0  # seconds without a line, after which the program says what it is at
_PAUSE = 2.0  # seconds between the lines of a short job
WIDE = 100_000  # columns, where nothing may be wrapped


def console(stderr: bool = True, file: IO[str] | None = None, quiet: bool = False) -> Console:
    """A console on standard error, standard output or `file`."""
    stream = file or (sys.stderr if stderr else sys.stdout)
    if stream.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown"):
        return _on_terminal(getattr(stream, "rich_proxied_file", stream), quiet)
    return _Console(
        file=file, stderr=stderr, quiet=quiet, emoji=False, width=WIDE, height=25, soft_wrap=True, color_system=None,
        force_terminal=False, force_interactive=False,
    )  # fmt: skip


@functools.cache
def _on_terminal(stream: IO[str], quiet: bool) -> Console:
    """One for all who write to a terminal: a line of another's would go through the bar that moves there."""
    return _Console(file=stream, quiet=quiet, emoji=False)


class _Console(Console):
    """Notes when it was last heard."""

    def print(self, *objects: Any, **how: Any) -> None:
        super().print(*objects, **how)
        _WATCH.heard = time.monotonic()

    def rule(self, title: Any = "", **how: Any) -> None:
        """A heading: a line across a terminal, elsewhere a short one."""
        super().rule(title, **how) if self.is_terminal else self.print(f"== {title}")


class _Work:
    """Something that is being done.

    Args:
        title: what; asked anew for each line.
        line: how far it is; None: the title, those of the work around it, and the seconds so far.
        soon: seconds after which that is said for the first time, whoever else speaks; None: after a silence.
        bar: on a terminal a bar of its own shows it.
    """

    def __init__(
        self, title: Callable[[], str], line: Callable[[], str] | None = None, soon: float | None = None, bar: bool = False,
        where: Console | None = None, quiet: bool = False,
    ) -> None:  # fmt: skip
        around = _WATCH.innermost()
        self.title = (lambda: f"{around.title()}, {title()}") if around else title
        self.console = where or (around.console if around else console())
        # of several processes the first one speaks
        self.quiet = quiet or self.console.quiet or os.environ.get("RANK", "0") != "0"
        self.lively = self.console.is_terminal and not self.quiet
        self.bar, self.soon, self.began, self._line = bar and self.lively, soon, time.monotonic(), line

    def due(self, heard: float) -> float:
        """When the next line is."""
        return self.began + self.soon if self.soon is not None else max(heard, self.began) + SILENCE

    def say(self) -> None:
        """The line."""
        if not self.quiet:
            line = self._line() if self._line else f"{self.title()}: {time.monotonic() - self.began:.0f} s so far"
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)


class _Watch:
    """Of this process: what is being done, the innermost last, and when anything was last heard."""

    def __init__(self) -> None:
        self.heard = 0.0
        self._changed = threading.Condition()
        self._works: list[_Work] = []
        self._thread: threading.Thread | None = None
        self._spinner: Bar | None = None

    def innermost(self) -> _Work | None:
        """What is being done."""
        return self._works[-1] if self._works else None

    @contextlib.contextmanager
    def over(self, work: _Work) -> Iterator[None]:
        """Speak of `work` until it is done."""
        with self._changed:
            self._works.append(work)
            self._spin()
            if self._thread is None:
                self._thread = threading.Thread(target=self._speak, name="progress", daemon=True)
                self._thread.start()
            self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._works.remove(work)
                self._spin()
                self._changed.notify()

    def _speak(self) -> None:
        """The thread's: a line of the innermost work whenever it is due, where no bar and no spinner shows it."""
        with self._changed:
            try:
                while self._works:
                    work = self._works[-1]
                    wait = work.due(self.heard) - time.monotonic()
                    if wait > 0:
                        self._changed.wait(wait)
                        continue
                    self.heard, work.soon = time.monotonic(), None
                    if not (work.bar or self._spinner):
                        with contextlib.suppress(OSError, SystemExit):  # nobody reads any more (`… | head`); rich exits
                            work.say()
            finally:
                self._thread = None

    def _spin(self) -> None:
        """On a terminal a spinner shows the innermost work, unless a bar moves there."""
        if self._spinner:
            self._spinner.stop()
        self._spinner, work = None, self.innermost()
        if work and work.lively and not any(w.bar for w in self._works):
            # slow, since engines may be timed meanwhile; what standard output takes to a file stays out of the terminal
            self._spinner = Bar(
                SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn(), console=work.console,
                transient=True, refresh_per_second=1, redirect_stdout=sys.stdout.isatty(),
            )  # fmt: skip
            task = self._spinner.add_task(work.title())
            self._spinner.tasks[task].start_time = work.began
            self._spinner.start()


_WATCH = _Watch()


def _forked() -> None:
    """The parent's thread is not here, and its lock may be held."""
    global _WATCH
    _WATCH = _Watch()


os.register_at_fork(after_in_child=_forked)


@contextlib.contextmanager
def doing(title: str | Callable[[], str], where: Console | None = None, soon: float | None = None) -> Iterator[None]:
    """`with doing("building engine 3"): …` says so every `SILENCE` seconds in which nothing else is said; on a terminal a spinner does.
    `@doing("…")` before a function does the same for its calls.

    Args:
        title: what is being done; asked anew for each line where it is a function.
        where: the console that speaks; default: that of the work around this one, or one on standard error.
        soon: seconds after which the first line is due, whatever else was said.
    """
    with _WATCH.over(_Work(title if callable(title) else lambda: title, soon=soon, where=where)):
        yield


def passed_on(line: str) -> None:
    """A line of another program's, by the console that speaks of what is being done."""
    work = _WATCH.innermost()
    speaker = work.console if work else console()
    if not (work and work.quiet):
        speaker.print(line, markup=False, highlight=False, soft_wrap=True)


class Progress:
    """`with Progress("dense", 700) as bar: bar.advance(loss)`."""

    def __init__(self, title: str, total: int, done: int = 0, quiet: bool = False, unit: str = "steps") -> None:
        self.title, self.total, self.done, self.unit = title, total, done, unit
        self._work = _Work(lambda: title, self._line, bar=True, quiet=quiet)
        self.console, self.quiet = self._work.console, self._work.quiet
        self._began, self._first, self._loss, self._told = time.monotonic(), done, float("nan"), done
        self._spoke = self._began
        self._bar = Bar(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit + "{task.fields[loss]}"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=self.console, disable=not self._work.lively,
            redirect_stdout=sys.stdout.isatty(),
        )  # fmt: skip
        self._task = self._bar.add_task(title, total=total, completed=done, loss="")
        self._shown = contextlib.ExitStack()

    def __enter__(self) -> Progress:
        if self.done and not self.quiet:
            self.console.print(f"{self.title}: going on from {self._place()}")
        self._shown.enter_context(_WATCH.over(self._work))
        self._shown.enter_context(self._bar)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shown.close()

    def advance(self, loss: float) -> None:
        """One step is done."""
        self.done += 1
        self._loss = loss if self._loss != self._loss else 0.95 * self._loss + 0.05 * loss
        self._bar.update(self._task, completed=self.done, loss=f", loss {self._loss:.3f}")
        self._tell()

    def move(self, count: int) -> None:
        """So many more are done, without a loss."""
        self.done += count
        self._bar.update(self._task, completed=self.done)
        if time.monotonic() - self._spoke >= _PAUSE:  # short ones need no lines
            self._tell()

    def _tell(self) -> None:
        """Where the output is no terminal: a line each tenth of the way."""
        if self.console.is_terminal or self.quiet or (self.done - self._told) * 10 < self.total:
            return
        self.console.print(self._line())
        self._told, self._spoke = self.done, time.monotonic()

    def _line(self) -> str:
        loss = "" if self._loss != self._loss else f", loss {self._loss:.3f}"
        seconds, done = time.monotonic() - self._began, self.done - self._first
        time_told = f"{seconds / done * (self.total - self.done):.0f} s left" if done else f"{seconds:.0f} s so far"
        return f"{self.title}: {self._place()}{loss}, {time_told}"

    def _place(self) -> str:
        return (
            f"step {self.done} of {self.total}" if self.unit == "steps" else f"{self.done} of {self.total} {self.unit}"
        )

    def say(self, line: str) -> None:
        """A line above the bar."""
        if not self.quiet:
            self.console.print(f"{self.title}: {line}")
