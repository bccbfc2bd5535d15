"""Is a race of two engines to be believed? It is, or is taken again when the machine is quieter, or is refused with the reason.

What other programs do shows in three ways: the interval of the ratio stays wide; the engine that is known takes another time
than when it was profiled; the ratio is none that a prediction can be wrong by. All of that is waited out. What stays the same over
three sittings is no neighbour's work: the profile that it contradicts was disturbed then, or is of another pace of the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from edgeprune.errors import EngineError
from edgeprune.measure.patience import Patience
from edgeprune.measure.race import Race

WIDE = 0.15  # of the ratio: an interval so wide decides nothing
STEADY = 0.05  # sittings that differ by no more say the same
PACE = 0.25  # by how much milliseconds of one engine may differ between sessions where milliseconds count
PACE_OF_RATIOS = 1.0  # and where only the ratio of two engines counts, which survives what slows both
WILD = 0.6  # by how much predictions of engines were never off (first ones were by 35 % beside other work)


@dataclass(frozen=True)
class Known:
    """What a race is held against; None: not known.

    Attributes:
        share: fast / slow as predicted or measured before; a race that is further off than `doubt` and its own interval gets two more
            sittings, and the median counts.
        rough: fast / slow that a believable race is not further from than by the factor 1 + `wild`.
        cut: the share of pairs that other programs may have cut into, those that were left out among them.
        slow: milliseconds of the slow engine when it was profiled; now they may differ by the factor 1 + `pace`.
        decided: is what hangs on a race the same, however disturbed it may be?
    """

    share: float | None = None
    doubt: float = 0.03
    rough: float | None = None
    wild: float = WILD
    cut: float = 1.0
    slow: float | None = None
    pace: float = PACE
    decided: Callable[[Race], bool] = lambda race: False


class NotBelieved(EngineError):
    """A race that was refused.

    Attributes:
        steady: three sittings said the same, so that what it was held against is wrong.
        pace_alone: and that was only the pace: nothing else speaks against the race.
    """

    def __init__(self, why: str, race: Race, steady: bool, pace_alone: bool = False) -> None:
        super().__init__(why)
        self.race, self.steady, self.pace_alone = race, steady, pace_alone


def believed(sitting: Callable[[], Race], known: Known, patience: Patience) -> Race:
    """A race that nothing speaks against.

    Raises:
        NotBelieved: after three sittings that say the same, or after all patience.
    """
    taken: list[Race] = []
    while True:
        taken.append(found := sitting())
        if known.decided(found):
            return found
        why = disturbed(found, known)
        if why is None and known.share is not None and not _near(found, known.share, known.doubt):
            found = sorted([found, sitting(), sitting()], key=lambda r: r.share)[1]
            why = disturbed(found, known)
        if why is None:
            return found
        steady = len(taken) >= 3 and _steady(taken[-3:])
        pace_alone = steady and disturbed(found, replace(known, slow=None)) is None
        slower = known.slow is not None and float(np.median(found.slow)) > (1 + known.pace) * known.slow
        if steady and not slower:  # a neighbour that slows both engines may go on for minutes
            raise NotBelieved(f"{why}, in three sittings", found, steady, pace_alone)
        if not patience.wait(why):
            raise NotBelieved(
                f"{why}; waited {patience.waited:.0f} s in vain for a quieter machine", found, steady, pace_alone
            )


def disturbed(race: Race, known: Known) -> str | None:
    """Why a race says nothing about its engines; None where nothing speaks against it."""
    slow, fast = float(np.median(race.slow)), float(np.median(race.fast))
    if race.throttled:
        return race.throttled[0]
    if race.high - race.low > WIDE * race.share:
        return f"the interval of the ratio is {(race.high - race.low) / race.share:.0%} of it wide"
    if (cut := race.busy + race.disturbed) > known.cut * (pairs := len(race.slow) + race.disturbed):
        return f"other programs cut into {cut} of {pairs} pairs"
    if known.slow is not None and _factor(slow, known.slow) > 1 + known.pace:
        return f"the dense engine takes {slow:.3f} ms, {known.slow:.3f} when it was profiled"
    if known.rough is not None and _factor(race.share, known.rough) > 1 + known.wild:
        return f"the engine takes {fast:.3f} ms, {race.share:.3f} of the dense one's, predicted was {known.rough:.3f}"
    return None


def _near(race: Race, share: float, doubt: float) -> bool:
    return abs(race.share / share - 1) <= max(doubt, (race.high - race.low) / race.share)


def _factor(a: float, b: float) -> float:
    return max(a / b, b / a)


def _steady(races: list[Race]) -> bool:
    """Narrow, undisturbed by the device itself, and the same in both engines' times."""
    if any(r.throttled or r.high - r.low > WIDE * r.share for r in races):
        return False
    times = np.array([[np.median(r.slow), np.median(r.fast)] for r in races])
    return bool((times.max(0) <= (1 + STEADY) * times.min(0)).all())
