"""Processes of a test's own, forked from one that has imported what takes a run seconds to import."""

import multiprocessing
import os
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from edgeprune.data.loader import short_sockets

short_sockets()
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.imported"])

Told = tuple[int | None, str, str]  # exit status, standard output, standard error


def started(work: Callable[..., None], args: tuple, told: list[Path], more: dict[str, str]) -> multiprocessing.Process:
    """`work(*args)` with more in its environment, and not waited for; `told` are the files for its standard output and error."""
    process = _FORKS.Process(target=_run, args=(work, args, told, os.environ | more))
    process.start()
    return process


def together(work: Callable[..., None], args: tuple, environments: list[dict[str, str]]) -> list[Told]:
    """The same, one process for each environment, all at the same time, until they end."""
    with tempfile.TemporaryDirectory() as folder:
        told = [[Path(folder) / f"{name}{n}" for name in ("stdout", "stderr")] for n in range(len(environments))]
        processes = [started(work, args, t, e) for t, e in zip(told, environments, strict=True)]
        for process in processes:
            process.join(600)
            process.kill()
            process.join()
        return [(p.exitcode, t[0].read_text(), t[1].read_text()) for p, t in zip(processes, told, strict=True)]


def team(work: Callable[..., None], *args: object) -> None:
    """`work(*args)` by two processes that know of each other."""
    done = together(work, args, ranks())
    assert [code for code, _, _ in done] == [0, 0], done


def ranks() -> list[dict[str, str]]:
    """What torchrun tells each of two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    return [common | {"RANK": rank, "LOCAL_RANK": rank} for rank in "01"]


def _run(work: Callable[..., None], args: tuple, told: list[Path], environment: dict[str, str]) -> None:
    for number, path in zip((1, 2), told, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    work(*args)
