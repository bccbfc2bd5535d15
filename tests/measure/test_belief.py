"""Races are believed, taken again when the machine is quieter, or refused with the reason; on times spoilt in every way we know."""

from dataclasses import replace

import numpy as np
import pytest

from edgeprune.errors import UsageError
from edgeprune.measure.belief import PACE_OF_RATIOS, Known, NotBelieved, believed, disturbed
from edgeprune.measure.patience import Patience
from edgeprune.measure.race import Race


def race(slow: float = 48.0, fast: float = 24.0, spread: float = 0.01, throttled: tuple[str, ...] = ()) -> Race:
    share = fast / slow
    low, high = share * (1 - spread / 2), share * (1 + spread / 2)
    return Race(np.full(9, slow), np.full(9, fast), [(12, True)] * 2, share, low, high, throttled=throttled)


class Clock(Patience):
    """Patience that costs no time, and keeps what was said."""

    def __init__(self, seconds: float = 300) -> None:
        self.lines: list[str] = []
        super().__init__(self.lines.append, seconds, sleep=lambda _: None)


def sit(races: list[Race], known: Known, patience: Patience) -> Race:
    """The last race is what the machine stays at."""
    left = list(races)
    return believed(lambda: left.pop(0) if len(left) > 1 else left[0], known, patience)


RIGHT = race()
SPOILT = {
    "a neighbour that slows the pruned engine more": race(fast=112.9),
    "a neighbour that slows both": race(slow=96, fast=50),
    "an engine that seems to cost nothing": race(fast=3.3),
    "a wide interval": race(spread=0.4),
    "a throttled device": race(throttled=("the GPU was too hot",)),
}


@pytest.mark.parametrize("spoilt", SPOILT.values(), ids=SPOILT.keys())
def test_what_is_spoilt_for_a_while_is_waited_out_and_told(spoilt):
    patience = Clock()
    assert sit([spoilt, spoilt, RIGHT], Known(share=0.5, rough=0.5, slow=48), patience) is RIGHT
    assert len(patience.lines) == 2 and patience.waited == 15
    assert all("not believed; waiting" in line and "at most 300" in line for line in patience.lines)


@pytest.mark.parametrize("spoilt", ["a wide interval", "a throttled device"])
def test_what_is_never_quiet_is_refused_when_patience_ends(spoilt):
    patience = Clock()
    with pytest.raises(NotBelieved, match="waited 300 s in vain") as refused:
        sit([SPOILT[spoilt]], Known(slow=48), patience)
    assert patience.waited == 300 and not refused.value.steady and refused.value.exit_status == 1


def test_sittings_that_contradict_each_other_are_not_steady():
    rng = np.random.default_rng(0)
    with pytest.raises(NotBelieved) as refused:
        believed(lambda: race(fast=60 + 100 * rng.random()), Known(rough=0.5), Clock())
    assert not refused.value.steady


@pytest.mark.parametrize(("fast", "predicted"), [(4.4, 32.4), (112.9, 57.7)])
def test_a_contradiction_that_stays_speaks_against_the_profile(fast, predicted):
    patience = Clock()
    with pytest.raises(NotBelieved, match="in three sittings") as refused:
        sit([race(fast=fast)], Known(share=predicted / 48, rough=predicted / 48, slow=48), patience)
    assert refused.value.steady and len(patience.lines) == 2, "it is no neighbour that leaves"


def test_a_device_that_was_slowed_when_it_was_profiled_is_told_after_three_sittings():
    with pytest.raises(NotBelieved, match=r"takes 48.000 ms, 96.000 when it was profiled") as refused:
        sit([RIGHT], Known(rough=0.5, slow=96), Clock())
    assert refused.value.steady


def test_a_device_that_is_slowed_now_is_waited_for_as_long_as_may_be():
    patience = Clock()
    with pytest.raises(NotBelieved) as refused:
        sit([race(slow=96, fast=48)], Known(rough=0.5, slow=48), patience)
    assert refused.value.steady and patience.waited == 300


@pytest.mark.parametrize(
    ("found", "known", "alone"),
    [
        (race(), Known(share=0.5, slow=96), True),  # profiled on battery
        (race(slow=96, fast=48), Known(share=0.5, slow=48), True),  # measured on battery
        (race(slow=150, fast=75), Known(share=0.5, slow=48, pace=PACE_OF_RATIOS), True),
        (race(fast=4.4), Known(rough=0.5, slow=96), False),  # its share is no engine's, either
        (race(spread=0.4), Known(share=0.5, slow=96), False),
    ],
)
def test_a_pace_that_stays_is_told_from_what_else_speaks_against_a_race(found, known, alone):
    with pytest.raises(NotBelieved) as refused:
        sit([found], known, Clock())
    assert refused.value.pace_alone == alone


def test_pairs_that_others_cut_into_speak_against_a_race_where_that_counts():
    cut = replace(race(), disturbed=3, busy=1)  # 4 of 12
    assert disturbed(cut, Known()) is None and disturbed(cut, Known(cut=0.4)) is None
    assert disturbed(cut, Known(cut=0.25)) == "other programs cut into 4 of 12 pairs"


def test_a_ratio_survives_what_slows_both_and_milliseconds_do_not():
    slowed = race(slow=80, fast=40)
    assert sit([slowed, RIGHT], Known(rough=0.5, slow=48, pace=PACE_OF_RATIOS), Clock()) is slowed
    assert sit([slowed, RIGHT], Known(rough=0.5, slow=48), Clock()) is RIGHT


def test_predictions_as_they_go_are_believed_at_once():
    for fast in (18, 30, 35):  # first engines were up to 35 % off
        patience, found = Clock(), race(fast=fast)
        assert sit([found], Known(rough=0.5, slow=50), patience) is found and not patience.lines


def test_nothing_is_waited_for_where_nothing_hangs_on_it():
    patience = Clock()
    found = SPOILT["a wide interval"]
    assert sit([found], Known(decided=lambda r: r is found), patience) is found and not patience.lines


def test_patience_is_one_for_the_whole_run_and_its_length_can_be_told(monkeypatch):
    patience = Clock(20)
    assert [patience.wait("x") for _ in range(4)] == [True, True, True, False] and patience.waited == 20
    monkeypatch.setenv("EDGEPRUNE_PATIENCE", "0")
    assert not Patience(print).wait("x")
    for wrong in ("soon", "-1", "nan", "inf"):
        monkeypatch.setenv("EDGEPRUNE_PATIENCE", wrong)
        with pytest.raises(UsageError, match="EDGEPRUNE_PATIENCE"):
            Patience(print)
