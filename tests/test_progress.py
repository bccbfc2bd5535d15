"""What is said while the program works: plain lines where there is no terminal, and never a long silence."""

import io
import os
import re
import threading
import time
from pathlib import Path

import pytest
from rich.table import Table

from edgeprune import progress
from edgeprune.progress import Progress, console, doing

REPOSITORY = Path(__file__).parents[1]
FILE = "/a/way/that/a/narrow/terminal/would/break/somewhere"  # short enough to be quoted whole
LONG = "/a/very/long/way" * 20 + "/weights.safetensors"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def said() -> io.StringIO:
    """What the consoles of this test have printed."""
    return io.StringIO()


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SILENCE", 0.05)


def until(text: str, said: io.StringIO) -> str:
    """What was said, as soon as `text` is among it."""
    deadline = time.monotonic() + 30
    while text not in said.getvalue() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert text in said.getvalue()
    return said.getvalue()


@pytest.fixture(params=["40", "7", ""])
def columns(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is set to have lines wrapped and coloured."""
    monkeypatch.setenv("COLUMNS", request.param)
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "CLICOLOR_FORCE"):
        monkeypatch.setenv(name, "1")


@pytest.mark.usefixtures("columns")
def test_where_there_is_no_terminal_nothing_is_wrapped_or_coloured(said):
    out, table = console(file=said), Table("file", "of", title=f"what lies at {LONG}")
    table.add_row(LONG, "[red]dense[/red]")
    out.print(f"[yellow]{LONG}: missing or damaged; stage load is done again[/yellow]")
    out.print(table)
    out.rule(f"run 1 of 2: {LONG}")
    out.print(f"a factory is named pkg:key:{LONG}", style="red", markup=False)
    text = said.getvalue()
    assert "\x1b" not in text and text.count(LONG) == 5 and "dense" in text
    assert f"== run 1 of 2: {LONG}\n" in text and f"pkg:key:{LONG}\n" in text
    assert not [line for line in text.splitlines() if line != line.rstrip()]


@pytest.mark.usefixtures("columns")
@pytest.mark.parametrize("command", [
    ["recipes"], ["targets"], ["check", "quickstart"], ["run", FILE + ".yaml"], ["run", "quickstart", "--target", FILE],
    ["data", "check", "voc2012", FILE], ["run-engine", FILE, "--source", "x"], ["run", "--help"], ["search", "--help"],
], ids=lambda words: "-".join(words).replace(FILE, "FILE").replace("/", "-"))  # fmt: skip
def test_every_command_prints_plain_lines(cli, command, monkeypatch):
    """The same at any width: nothing is broken where it was not."""
    _, *told = cli(*command)
    monkeypatch.delenv("COLUMNS")
    _, *wide = cli(*command)
    assert told == wide and "\x1b" not in "".join(told)
    if FILE in " ".join(command):
        assert FILE in "".join(told)


def test_a_terminal_that_only_prints_gets_plain_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    said = Terminal()
    console(file=said).print(f"[red]{LONG}[/red]")
    assert said.getvalue() == f"{LONG}\n"


def test_consoles_are_made_in_one_place():
    files = [p for folder in ("edgeprune", "benchmarks", "docs") for p in (REPOSITORY / folder).rglob("*.py")]
    others = [p for p in files if re.search(r"\b(Console\(|rich\.(print|progress)\b)", p.read_text())]
    assert [str(p.relative_to(REPOSITORY)) for p in others] == ["edgeprune/progress.py"]


@pytest.mark.usefixtures("hurry")
def test_what_takes_long_is_said_the_innermost_with_what_it_is_part_of(said):
    with doing("prune", console(file=said)), doing("engine 3"):
        assert re.fullmatch(r"(prune, engine 3: \d+ s so far\n)+", until("engine 3", said))
    with doing("prune", console(file=said)):
        with doing("engine 4"):
            pass
        until("\nprune: ", said)
    assert "engine 4" not in said.getvalue()


@pytest.mark.usefixtures("hurry")
def test_a_function_whose_calls_take_long_says_so(said):
    @doing("rehearsing the cut")
    def work():
        return until("rehearsing the cut: ", said)

    with doing("load", console(file=said)):
        assert "load, rehearsing the cut: 0 s so far\n" in work()


@pytest.mark.usefixtures("hurry")
def test_a_bar_that_stands_still_says_where_it_stands(said):
    with doing("finetune", console(file=said)), Progress("finetune", 8) as bar:
        until("finetune: step 0 of 8, 0 s so far", said)
        bar.advance(0.5)
        until("finetune: step 1 of 8, loss 0.500, ", said)
        with doing("judging the network"):
            until("finetune, finetune, judging the network: ", said)


def test_nothing_is_added_where_lines_come_often_enough(said):
    """The next line is due `SILENCE` after the last one, by whichever console that was."""
    with doing("prune", console(file=said)):
        work = progress._WATCH.innermost()
        assert work is not None
        console(file=io.StringIO()).print("a line")
        assert work.due(progress._WATCH.heard) == progress._WATCH.heard + progress.SILENCE
        assert progress._WATCH.heard > work.began
    assert said.getvalue() == ""


def test_some_waits_are_told_of_at_once(said):
    with doing("prune", console(file=said)), doing(lambda: f"waiting for process {6 * 7}", soon=0):
        until("prune, waiting for process 42: 0 s so far\n", said)


@pytest.mark.usefixtures("hurry")
def test_who_shall_be_quiet_is(said, monkeypatch):
    with doing("prune", console(file=said, quiet=True)), doing("inner", soon=0):
        time.sleep(0.2)
    monkeypatch.setenv("RANK", "1")  # of several processes the first one speaks
    with doing("prune", console(file=said), soon=0), Progress("dense", 4):
        time.sleep(0.2)
    assert said.getvalue() == ""


def test_on_a_terminal_a_spinner_shows_it_and_a_bar_takes_its_place(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    said = Terminal()
    out = console(file=said)
    with doing("prune", out):
        until("prune", said)
        out.print("a line above")
        with doing("timing"):
            until("prune, timing", said)
        with Progress("dense", 2) as bar:
            bar.advance(0.25)
            with doing("waiting for process 42", soon=0):
                until("waiting for process 42: 0 s so far", said)
    assert "a line above\r\n" in said.getvalue().replace("\n", "\r\n") and "loss 0.250" in said.getvalue()
    assert "\x1b[?25l" in said.getvalue() and said.getvalue().rstrip().endswith("\x1b[2K"), (
        "it is wiped away in the end"
    )


@pytest.mark.usefixtures("hurry")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_forked_process_speaks_for_itself(tmp_path):
    with doing("parent", console(file=io.StringIO())):
        child = os.fork()
        if child == 0:
            try:
                with open(tmp_path / "said", "w") as file, doing("child", console(file=file)):
                    time.sleep(0.5)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
    assert (tmp_path / "said").read_text().startswith("child: 0 s so far\n")


@pytest.mark.usefixtures("hurry")
def test_a_reader_that_has_gone_ends_neither_the_work_nor_what_is_said_of_others(said, monkeypatch):
    """`edgeprune run … 2>&1 | head`."""
    watch = progress._Watch()
    monkeypatch.setattr(progress, "_WATCH", watch)
    gone, tried = console(file=said), threading.Event()

    def broken(*objects, **how):
        tried.set()
        raise BrokenPipeError

    monkeypatch.setattr(gone, "print", broken)
    with doing("training", gone):
        assert tried.wait(30)
        with doing("measuring", console(file=said)):
            until("training, measuring: ", said)
