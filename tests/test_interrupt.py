"""Ctrl-C at any moment: one line and status 130."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import os, signal, sys
if {heard}:  # whoever started the tests in the background has them ignore it
    signal.signal(signal.SIGINT, signal.default_int_handler)
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
sys.argv = ["edgeprune", "check", "quickstart"]
from edgeprune.__main__ import main
main()
"""


@pytest.mark.parametrize("name", ["edgeprune.cli", "typer", "pydantic_core", "edgeprune.compatible"])
def test_ctrl_c_while_modules_are_imported(name):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(name=name, heard=True)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "stopped; the same command goes on from here\n"


def test_an_interrupt_that_is_ignored_stays_ignored():
    script = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)" + SCRIPT.format(name="typer", heard=False)
    script = script.replace('"check", "quickstart"', '"--version"')
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.startswith("edgeprune ")
