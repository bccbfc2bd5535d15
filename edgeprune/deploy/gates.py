"""Gates: what must hold before an engine ships. Drops are two-sided: a gain that is too good is a bug as well."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Gate:
    """One check. `value` is None where there was nothing to check it on; then it has not passed."""

    name: str
    limit: float
    value: float | None
    passed: bool
    note: str = ""

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def at_most(name: str, limit: float | None, value: float | None, note: str = "") -> list[Gate]:
    """A gate on the size of a difference, either way; none where the limit is None."""
    if limit is None:
        return []
    return [Gate(name, limit, value, value is not None and abs(value) <= limit, note)]


def no_drop(name: str, limit: float | None, value: float | None, note: str = "") -> list[Gate]:
    """A gate on a loss only: `value` is the change, and a gain passes."""
    if limit is None:
        return []
    return [Gate(name, limit, value, value is not None and value >= -limit, note)]


def at_least(name: str, limit: float | None, value: float | None, note: str = "") -> list[Gate]:
    """A gate on a value that must be reached; none where the limit is None."""
    if limit is None:
        return []
    return [Gate(name, limit, value, value is not None and value >= limit, note)]


def trusted(gates: list[Gate], throttled: list[str]) -> list[Gate]:
    """The gates on times; none has passed where the device was slowed down while they were taken."""
    reason = "not to be trusted: " + "; ".join(throttled)
    return [replace(g, passed=False, note=reason) for g in gates] if throttled else gates
