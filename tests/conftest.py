"""What many tests need: the real images where they are at hand, and the command line run in this process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.exporter import parse_once
from tests.patience import run_short

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def camvid() -> Path:
    """The real CamVid pack; the test is skipped where it is absent."""
    root = Path(os.environ.get("EDGEPRUNE_DATA", REPOSITORY.parent / "shared" / "data")) / "camvid"
    if not root.is_dir():
        pytest.skip("skipped, no data")
    return root


parse_once()
run_short()


@pytest.fixture(scope="session", autouse=True)
def own_table(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The tests' latency table is their own, also in the processes that they start; and they wait for nobody's measurements."""
    home = tmp_path_factory.mktemp("table")
    os.environ.setdefault("EDGEPRUNE_PATIENCE", "5")
    os.environ["EDGEPRUNE_TABLE"], os.environ["EDGEPRUNE_LEASE"] = str(home / "latency.sqlite"), str(home / "lease")


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
