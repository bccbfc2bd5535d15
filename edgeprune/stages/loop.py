"""What the closed loop has tried: one engine, and the history that a killed loop goes on from."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from edgeprune.profile.predict import Predictor
from edgeprune.prune.cost import Widths
from edgeprune.prune.cutter import Cutter
from edgeprune.stages import notes
from edgeprune.stages.run import Run

MARGIN, RISK = 0.01, 0.03  # of the budget: to keep free; and how much less one that keeps it may use


@dataclass(frozen=True)
class Tried:
    """One engine of the loop; milliseconds are comparable with `limit`."""

    widths: Widths
    predicted: float
    limit: float
    ms: float
    low: float
    high: float
    record: dict[str, Any]
    precision: str
    seconds: float
    scout: bool = False  # it only teaches the predictor

    @property
    def met(self) -> bool:
        return self.high <= self.limit

    @property
    def safe(self) -> bool:
        """Met by a margin, so that it will be met when the engine that ships is measured."""
        return self.high <= (1 - MARGIN) * self.limit

    @property
    def used(self) -> float:
        return self.ms / self.limit

    @property
    def merit(self) -> float:
        return self.used - (0.0 if self.safe else RISK)


class History:
    """`prune/latency.json`: every engine as soon as it is measured, and what the predictor has learnt from it.

    A loop that was killed goes on with its next engine; one that came to its end is measured anew when it is asked again.
    """

    def __init__(self, run: Run, cutter: Cutter, limit: float) -> None:
        self._path, self._limit, self._console = run.folder / "prune" / "latency.json", limit, run.console
        self._key = notes.key_of(run, cutter, [run.facts["profile"], limit])

    def resume(self, predictor: Predictor, aim: float) -> tuple[list[Tried], float]:
        """The engines of a loop that did not come to its end, and what to aim at next."""
        told = notes.told(self._path, self._key)
        if not told:
            return [], aim
        predictor.recall(told["predictor"])
        tried = [Tried(**{f.name: e[f.name] for f in fields(Tried) if f.name in e}) for e in told["engines"]]
        self._console.print(f"going on after engine {len(tried)}")
        return tried, told["aim"]

    def keep(self, tried: list[Tried], predictor: Predictor, aim: float) -> None:
        self._write(tried, None, {"key": self._key, "aim": aim, "predictor": predictor.learnt()})

    def close(self, tried: list[Tried], chosen: Tried | None) -> None:
        self._write(tried, chosen, {})

    def _write(self, tried: list[Tried], chosen: Tried | None, more: dict[str, Any]) -> None:
        rows = [asdict(t) | {"met": t.met, "used": t.used, "chosen": t is chosen} for t in tried]
        notes.keep(self._path, {"limit": self._limit, "engines": rows} | more)
