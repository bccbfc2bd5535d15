"""What many tests need: the real images where they are at hand, and the command line run in this process."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.exporter import parse_once
from tests.graphs_once import capture_once
from tests.patience import run_short

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def camvid() -> Path:
    """The real CamVid pack; the test is skipped where it is absent."""
    root = Path(os.environ.get("EDGEPRUNE_DATA", REPOSITORY.parent / "shared" / "data")) / "camvid"
    if not root.is_dir():
        pytest.skip("skipped, no data")
    return root


# The tests' latency table is their own, also in the processes that they start, and they wait for nobody's measurements. It is
# set before any test file is imported: the device's scripts read the lease's path when they are.
_OWN = tempfile.TemporaryDirectory(prefix="edgeprune-tests-", ignore_cleanup_errors=True)
os.environ["EDGEPRUNE_TABLE"], os.environ["EDGEPRUNE_LEASE"] = f"{_OWN.name}/latency.sqlite", f"{_OWN.name}/lease"
os.environ.setdefault("EDGEPRUNE_PATIENCE", "5")
run_short()
capture_once()
parse_once()
gc.set_threshold(100_000, 20, 50)  # millions of objects live as long as the process


@pytest.fixture(autouse=True)
def whole_floats() -> None:
    """Subnormal numbers are numbers, as hypothesis wants them: a run in this process turns them off."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs `edgeprune ARGS`: (exit status, standard output, standard error)."""

    def call(*args: str) -> tuple[int, str, str]:
        from edgeprune.cli import main

        monkeypatch.setattr(sys, "argv", ["edgeprune", *args])
        with pytest.raises(SystemExit) as ended:
            main()
        found = capsys.readouterr()
        code = ended.value.code
        return (code if isinstance(code, int) else 0 if code is None else 1), found.out, found.err

    return call
