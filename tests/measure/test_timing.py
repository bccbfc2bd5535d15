import numpy as np

from edgeprune.devices.pairs import interleaved, warm_up
from edgeprune.measure.timing import measurement


def test_pairs_alternate_and_who_is_first_changes():
    calls = []
    a, b, warm = interleaved(lambda: calls.append("a"), lambda: calls.append("b"), 6)
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
