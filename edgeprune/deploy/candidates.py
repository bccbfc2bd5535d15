"""Precisions that compete to ship (`deploy.precision: fastest`): what was found of each, in figures and in plain words."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from edgeprune.deploy.gates import Gate


@dataclass(frozen=True)
class Candidate:
    """The pruned engine at one precision.

    Attributes:
        asked, found: the precision asked for, and read back from the engine; None where there is no engine.
        left_out: why it was not judged; None where it was.
        ms: median milliseconds; share, ci95: of the reference engine's time, by interleaved pairs. None for what was left out.
    """

    asked: str
    found: str | None = None
    left_out: str | None = None
    gates: list[Gate] = field(default_factory=list)
    ms: float | None = None
    share: float | None = None
    ci95: tuple[float, float] | None = None

    @property
    def passed(self) -> bool:
        return self.left_out is None and all(gate.passed for gate in self.gates)

    def record(self, reference: str, chosen: str) -> dict[str, Any]:
        """As JSON, with its verdict."""
        row = asdict(self) | {"passed": self.passed, "chosen": self.asked == chosen}
        return row | {"verdict": verdict(self, reference, chosen)}


def verdict(candidate: Candidate, reference: str, chosen: str) -> str:
    """Why it ships or does not, in one line without its name."""
    if candidate.left_out is not None:
        return candidate.left_out
    failed = "; ".join(_failed(gate) for gate in candidate.gates if not gate.passed)
    if candidate.asked == chosen:
        return f"taken, though it fails {failed}: no precision passes" if failed else "the fastest that passes: taken"
    pace = _pace(candidate, reference)
    return f"fails {failed}; {pace}" if failed else f"passes, {pace}"


def _failed(gate: Gate) -> str:
    value = "nothing to check" if gate.value is None else f"{gate.value:.4g}"
    return f"{gate.name} ({value}, limit {gate.limit:g})"


def _pace(candidate: Candidate, reference: str) -> str:
    """Its speed against the reference, said only as far as the interval tells."""
    if candidate.asked == reference:
        return "the others are timed against it"
    assert candidate.ci95 is not None
    low, high = candidate.ci95
    how = "slower than" if low > 1 else "faster than" if high < 1 else "not clearly faster than"
    return f"{how} {reference}: {candidate.share:.2f} of its time [{low:.2f}, {high:.2f}]"
