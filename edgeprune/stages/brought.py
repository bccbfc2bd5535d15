"""A result.zip that was brought from a device: checked against the run before it is kept, and taken back if the run cannot end with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeprune.devices import Replay
from edgeprune.errors import EngineError
from edgeprune.files import write_atomic
from edgeprune.stages.bundle import parity_data
from edgeprune.stages.deploy import RESULT, ROLES, graph_of, precision
from edgeprune.stages.run import Run


def check(run: Run, path: Path) -> None:
    """Is it a result of this run's networks on this run's images?

    Raises:
        EngineError: one line that says what does not fit.
    """
    brought, data = Replay(run.target, path), parity_data(run)
    reason = brought.unfit({role: graph_of(run, role) for role in ROLES}, precision(run))
    reason = reason or brought.strange((data[i][0] for i in range(len(data))), len(data.classes))
    if reason:
        raise EngineError(f"{path} does not fit {run.folder}: {reason}")


@contextmanager
def kept(run: Run, path: Path) -> Iterator[None]:
    """The result lies in the run's folder, where later runs of the same recipe find it; what lay there comes back on an error."""
    place = run.folder / RESULT
    before = place.read_bytes() if place.exists() else None
    write_atomic(place, path.read_bytes())
    try:
        yield
    except BaseException:
        if before is None:
            place.unlink(missing_ok=True)
        else:
            write_atomic(place, before)
        raise
