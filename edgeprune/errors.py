"""The tree of errors; each class carries the exit status that the command line ends with."""

from collections.abc import Iterable


class EdgepruneError(Exception):
    """An error that a user can act on: one line that says what, where, and what would be right."""

    exit_status = 1


class RecipeError(EdgepruneError):
    """A recipe, target or override is wrong."""

    exit_status = 2


class UsageError(EdgepruneError):
    """The command line is wrong."""

    exit_status = 2


class DataError(EdgepruneError):
    """An image, label or data folder is wrong."""


class CheckpointError(EdgepruneError):
    """A checkpoint cannot be loaded."""


class ModelError(EdgepruneError):
    """A network cannot be built."""


class SurgeryError(EdgepruneError):
    """A network cannot be pruned, or the surgery proof failed."""


class BudgetError(EdgepruneError):
    """A budget cannot be met."""


class OutOfReach(BudgetError):
    """No widths cost as little as that; `limit` and `least` are in the budget's unit, which the stage that asked adds.

    Args:
        limit: what was looked for.
        least: the smallest cost that there is; None where it is not known.
        by: what allows no less.
        todo: what the user may change.
    """

    def __init__(self, limit: float, least: float | None = None, by: str = "the widths", todo: str = "") -> None:
        self.limit, self.least, self.by, self.todo = limit, least, by, todo
        end = " by these widths" if least is None else f"; the smallest that {by} allow is {least:.4g}"
        super().__init__(f"budget: {limit:.4g} cannot be reached{end}{f'; {todo}' if todo else ''}")


class ExportError(EdgepruneError):
    """ONNX export or simplification failed."""


class EngineError(EdgepruneError):
    """An engine cannot be compiled or run."""


class RunLockedError(EdgepruneError):
    """Another process is using the run's folder."""


class DeviceError(EdgepruneError):
    """The device is not there to measure on."""

    exit_status = 4


class GateFailed(EdgepruneError):
    """Built and measured, but a gate failed."""

    exit_status = 3


def first_line(error: BaseException) -> str:
    """Of its message; "" where there is none."""
    return (str(error).strip().splitlines() or [""])[0]


def kind_and_line(error: BaseException) -> str:
    """Its class and the first line of its message, shortened."""
    return f"{type(error).__name__}: {first_line(error)[:200]}"


def few(names: Iterable[object], most: int = 6) -> str:
    """Names as a part of one line: the first ones, and how many others there are; "none" where there is none."""
    told = [str(name) for name in names]
    more = f" and {len(told) - most} more" if len(told) > most else ""
    return ", ".join(n if len(n) <= 60 else f"{n[:59]}…" for n in told[:most]) + more or "none"


def in_a_line(error: Exception) -> str:
    """One line for what ended a run among several."""
    if isinstance(error, EdgepruneError):
        return str(error)
    return f"unexpected {type(error).__name__}: {first_line(error)}; `edgeprune --debug run` shows the trace"
