"""What is said of the precisions that competed to ship."""

import pytest

from edgeprune.deploy.candidates import Candidate
from edgeprune.deploy.gates import Gate

OK, BAD = Gate("pixel_agreement", 0.98, 0.999, True), Gate("pixel_agreement", 0.98, 0.9412, False)


@pytest.mark.parametrize(
    ("candidate", "chosen", "words"),
    [
        (Candidate("f32", "f32", None, [OK], 2.0, 1.0, (1.0, 1.0)), "f32", "the fastest that passes: taken"),
        (Candidate("f32", "f32", None, [OK], 2.0, 1.0, (1.0, 1.0)), "f16", "passes, the others are timed against it"),
        (
            Candidate("int8", "int8", None, [OK], 3.0, 1.5, (1.45, 1.55)),
            "f32",
            "passes, slower than f32: 1.50 of its time [1.45, 1.55]",
        ),
        (
            Candidate("bf16", "bf16", None, [OK], 2.0, 0.99, (0.97, 1.01)),
            "f32",
            "passes, not clearly faster than f32: 0.99 of its time [0.97, 1.01]",
        ),
        (
            Candidate("int8", "int8", None, [BAD], 1.0, 0.5, (0.49, 0.51)),
            "f32",
            "fails pixel_agreement (0.9412, limit 0.98); faster than f32: 0.50 of its time [0.49, 0.51]",
        ),
        (
            Candidate("f32", "f32", None, [BAD], 2.0, 1.0, (1.0, 1.0)),
            "f32",
            "taken, though it fails pixel_agreement (0.9412, limit 0.98): no precision passes",
        ),
        (Candidate("f16", "f32", "runs at f32 here, as f32 does"), "f32", "runs at f32 here, as f32 does"),
    ],
)
def test_the_verdict_in_words(candidate, chosen, words):
    row = candidate.record("f32", chosen)
    assert row["verdict"] == words and row["chosen"] is (candidate.asked == chosen)


def test_what_was_not_judged_has_not_passed():
    assert not Candidate("f16", "f32", "runs at f32 here, as f32 does").passed
    assert not Candidate("int8", None, "not built: no images").record("f32", "f32")["passed"]
