import os
import subprocess
import sys
import time

import numpy as np

from edgeprune.devices import pairs
from edgeprune.devices.pairs import interleaved, warm_up
from edgeprune.measure.timing import measurement
from edgeprune.runtime.quiet import undisturbed, waited


def test_pairs_alternate_and_who_is_first_changes(monkeypatch):
    calls = []
    monkeypatch.setattr(pairs, "waited", lambda: 0.0)
    a, b, warm, *_ = interleaved(lambda: calls.append("a"), lambda: calls.append("b"), 6)
    timed = "".join(calls[sum(w[0] for w in warm) :])
    assert timed == "abbaabbaabba" and len(a) == len(b) == 6


def test_warm_up_ends():
    calls, steady = warm_up(lambda: sum(range(20000)), most=30)
    assert 12 <= calls <= 30 and isinstance(steady, bool)


def test_record_has_what_a_number_alone_has_not():
    m = measurement(np.array([1.0, 2, 3]), (12, True), backend="x", precision="f32", device="CPU")
    record = m.record()
    assert record["p50"] == 2 and record["count"] == 3 and m.fps == 500
    assert {"boundary", "cv", "p99", "warmup", "precision", "backend", "times_ms"} <= set(record)


def test_pairs_in_which_others_held_the_processor_are_left_out(monkeypatch):
    """The slow engine is cut into far more often than the fast one, as on a busy machine; the ratio is that of a quiet one."""
    clock, total, calls = [0.0], [0.0], [0]

    def call(ms: float, every: int):
        def run() -> None:
            calls[0] += 1
            cut = 20.0 if calls[0] % every == 0 else 0.0  # somebody else's time slice
            clock[0] += ms + cut
            total[0] += cut

        return run

    monkeypatch.setattr(pairs, "waited", lambda: total[0])
    monkeypatch.setattr(pairs, "once", lambda made: _timed(made, clock))
    found = interleaved(call(4.0, 2), call(2.0, 50), 10)
    assert len(found.slow) == 10 and np.allclose(found.slow, 4) and np.allclose(found.fast, 2) and found.disturbed > 0


def _timed(made, clock):
    before = clock[0]
    made()
    return clock[0] - before


def test_where_it_is_never_quiet_the_least_disturbed_pairs_count(monkeypatch):
    waits = iter(range(10_000))
    monkeypatch.setattr(pairs, "waited", lambda: float(next(waits)))
    found = interleaved(lambda: None, lambda: None, 5)
    assert len(found.slow) == 5 and (found.disturbed, found.busy) == (15, 5)


def test_waiting_for_a_processor_is_counted():
    """Two busy processes on one processor: each waits for the other."""
    cpu = sorted(os.sched_getaffinity(0))[0]
    code = f"import os, time; os.sched_setaffinity(0, {{{cpu}}}); t = time.time()\nwhile time.time() - t < 3: pass"
    before, mine = waited(), os.sched_getaffinity(0)
    other = subprocess.Popen([sys.executable, "-c", code])
    try:
        os.sched_setaffinity(0, {cpu})
        until = time.process_time() + 0.5
        while time.process_time() < until:
            pass
    finally:
        os.sched_setaffinity(0, mine)
        other.wait()
    assert waited() - before > 5


def test_undisturbed_calls():
    assert undisturbed(np.array([10.0, 10, 10]), np.array([0.0, 5, 0.1]), 1).tolist() == [True, False, True]
    assert undisturbed(np.array([10.0, 10, 10]), np.array([9.0, 5, 7]), 2).tolist() == [False, True, True]
