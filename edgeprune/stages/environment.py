"""The environment variables that a run reads, checked when it starts: what is wrong with them would be told after hours."""

from __future__ import annotations

from edgeprune.devices import lease
from edgeprune.measure import patience
from edgeprune.profile.table import Table
from edgeprune.stages import deploy
from edgeprune.stages.run import Run


def check(run: Run) -> None:
    """Are they of use? `EDGEPRUNE_LEASE` is asked about where this machine measures, `EDGEPRUNE_TABLE` where a run fills the table.

    Raises:
        UsageError: `EDGEPRUNE_PATIENCE` is no number of seconds.
        DeviceError: the lease's file can be neither opened nor made.
        EdgepruneError: neither can the latency table.
    """
    patience.limit()
    if run.target.host is None and deploy.device(run).why_not() is None:
        lease.check()
    if run.recipe.budget.is_latency:
        Table().close()
