"""What is told before anything is trained: a network that would fail later, a budget that is out of reach."""

from __future__ import annotations

from edgeprune.errors import BudgetError, RecipeError, UsageError, kind_and_line
from edgeprune.progress import doing
from edgeprune.stages import load, reach
from edgeprune.stages.run import Run


def check(run: Run, *, rehearsed: bool) -> None:
    """Rehearse the network, and refuse a budget that is out of reach.

    Args:
        rehearsed: the dense network has been made by the same keys, so it was rehearsed then.

    Raises:
        EdgepruneError: something would fail only after the training; BudgetError: the budget is out of reach.
    """
    if not rehearsed:
        with doing("rehearsing", run.console):
            load.rehearse(run)
    try:
        reach.check(run)
    except (BudgetError, RecipeError, UsageError):
        raise
    except Exception as error:  # such as of a device that does not answer: the stages say better what is wrong
        why = f"whether the budget can be reached is not known yet ({kind_and_line(error)})"
        run.console.print(why, style="dim", markup=False, highlight=False, soft_wrap=True)
