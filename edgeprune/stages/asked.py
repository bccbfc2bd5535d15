"""A budget that cannot be met, in the words of the one who asked for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edgeprune.errors import BudgetError, OutOfReach
from edgeprune.recipe import Budget
from edgeprune.recipe.units import amount, asked

_SAME = 1e-3  # of two limits, relatively


@contextmanager
def in_units(budget: Budget, dense: float, why_less: str = "") -> Iterator[None]:
    """Turn what an allocator says into one line with units, the recipe's figure and, where it was another, the one looked for.

    Args:
        dense: what the dense network costs, in the budget's unit.
        why_less: why less was looked for than was asked.

    Raises:
        BudgetError: for each `OutOfReach`.
    """
    try:
        yield
    except OutOfReach as error:
        kind, limit = budget.kind, budget_limit(budget, dense)
        parts = [f"budget.{kind}: {asked(budget, dense)} cannot be reached"]
        if abs(error.limit / limit - 1) > _SAME:
            parts.append(f"looked for was {amount(kind, error.limit)}{f', {why_less}' if why_less else ''}")
        if error.least is not None:
            share = f"{error.least / dense:.2f}x of the dense {'engine' if budget.is_latency else 'network'}"
            parts.append(f"the smallest that {error.by} allow is {amount(kind, error.least)} ({share})")
        raise BudgetError("; ".join([*parts, *([error.todo] if error.todo else [])])) from error


def budget_limit(budget: Budget, dense: float) -> float:
    """The budget in its unit, frames a second as milliseconds an image."""
    return 1000.0 / budget.limit(0) if budget.kind == "fps" else budget.limit(dense)
