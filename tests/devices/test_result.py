"""A result that was carried by hand: whole ones are taken, and whatever else it is, one line says so."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.devices import replay
from edgeprune.errors import EdgepruneError, EngineError
from edgeprune.target import Target
from tests.devices import brought
from tests.mutants import mutants

TARGET = Target.model_validate(
    {"name": "board", "title": "b", "backend": "tensorrt", "device": "GPU", "precision": "f32", "precisions": ["f32"]}
)


def test_a_whole_result_is_taken(tmp_path):
    told, answers = replay.read(brought.write(tmp_path / "result.zip", brought.whole()))
    assert told["target"] == "board" and answers.shape == (2, 4, 6)
    replay.read(
        brought.write(tmp_path / "bare.zip", brought.whole(boundaries={}, layers=None, pytorch=None, engine=None))
    )


def series(**changes: Any) -> dict[str, Any]:
    return brought.whole()["latency"] | changes


WRONG = {
    "negative times": ({"latency": series(times_ms=[-2.0, 2.0])}, r"latency\.times_ms\[0\]: .*greater than 0, not -2\.0"),
    "no time": ({"dense_latency": series(times_ms=[2.0, 0])}, r"dense_latency\.times_ms\[1\]"),
    "text": ({"latency": series(times_ms=["2.0", 2.0])}, r"latency\.times_ms\[0\]: .*number, not '2\.0'"),
    "nested": ({"latency": series(times_ms=[[2.0], 2.0])}, r"latency\.times_ms\[0\]"),
    "endless": ({"latency": series(times_ms=[1e300, 2.0])}, r"latency\.times_ms\[0\]"),
    "unequal": ({"latency": brought.whole([2.0])["latency"]}, "pairs have two times each, not 2 in dense_latency and 1"),
    "miscounted": ({"latency": series(count=3)}, "count says 3, and there are 2"),
    "another median": ({"latency": series(p50=1.0)}, r"latency: p50 says 1 ms, and its times_ms give 2\.25"),
    "another p99": ({"dense_latency": series(p99=9.0)}, r"dense_latency: p99 says 9 ms"),
    "true for one": ({"latency": series(warmup=True)}, r"latency\.warmup"),
    "no times": ({"latency": {k: v for k, v in series().items() if k != "times_ms"}}, r"latency\.times_ms: is missing"),
    "layers of one role": ({"layers": {"dense": []}}, r"layers\.pruned: is missing"),
    "a layer without a time": ({"layers": {"dense": [["conv", "Conv"]], "pruned": []}}, r"layers\.dense\[0\]"),
    "boundaries of nobody": ({"boundaries": {"other": {}}}, "boundaries"),
    "boundaries without records": ({"boundaries": {"pruned": {"boundaries": []}}}, r"boundaries\.pruned"),
    "an unknown key": ({"miou": 0.9}, "miou"),
    "half a fingerprint": ({"device": {"board": 3, "cpu": "x"}}, r"device\.board"),
    "out of its folder": ({"recipe": "../x"}, "recipe: must be a name without folders"),
    "a backend without a name": ({"backend": " "}, "backend"),
    "as many sums": ({"images": 3}, "images says 3"),
    "another task": ({"task": "poetry"}, "task"),
}  # fmt: skip


@pytest.mark.parametrize("fault", WRONG)
def test_what_is_wrong_is_named(tmp_path, fault):
    changes, said = WRONG[fault]
    with pytest.raises(EngineError, match=rf"not a result of this program's bundles.*{said}"):
        replay.read(brought.write(tmp_path / "result.zip", brought.whole(**changes)))


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e999", "-Infinity"])
def test_numbers_that_json_has_not_are_refused_wherever_they_stand(tmp_path, text):
    whole = json.dumps(brought.whole())
    for place in ('"batch": 1', '"level": 3', '"p50": 2.25'):
        odd = whole.replace(place, place.partition(":")[0] + f": {text}")
        assert odd != whole
        with pytest.raises(EngineError, match="no number of JSON's"):
            replay.read(brought.write(tmp_path / "result.zip", odd))


@pytest.mark.parametrize(
    "answers",
    [np.zeros((3, 4, 6), np.uint8), np.zeros((2, 4), np.uint8), np.zeros((2, 4, 6), np.float32), np.array(3, np.uint8)],
    ids=["of three images", "no masks", "floats", "a number"],
)
def test_answers_of_another_kind_are_refused(tmp_path, answers):
    with pytest.raises(EngineError, match="its answers do not belong to its result"):
        replay.read(brought.write(tmp_path / "result.zip", brought.whole(), answers))


def test_logits_that_are_no_numbers_are_refused(tmp_path):
    logits = np.array([[1, np.nan], [0, 1]], np.float32)
    whole = brought.whole(task="classification", pixel_agreement=None, top1_agreement=1.0)
    with pytest.raises(EngineError, match="not all finite"):
        replay.read(brought.write(tmp_path / "result.zip", whole, logits))


def test_answers_of_other_images_or_classes_are_strange(tmp_path):
    images = np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3)
    sums = [replay._digest(image) for image in images]
    path = brought.write(tmp_path / "result.zip", brought.whole(image_sums=sums), brought.ANSWERS + 5)
    found = replay.Replay(TARGET, path)
    assert found.strange(images, 6) is None
    assert "masks hold class 5, and there are classes 0 to 4" in str(found.strange(images, 5))
    assert "an image of this run is not in it" in str(found.strange(images ^ 1, 6))


GOOD = brought.whole()


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("brought") / "result.zip"


@given(mutants(GOOD))
@settings(max_examples=500, deadline=None)
def test_any_change_of_a_result_is_one_line_or_a_whole_result(path, told):
    taken(brought.write(path, told))


WHOLE = brought.zipped(GOOD)


@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=6), st.integers(1, len(WHOLE)))
@settings(max_examples=500, deadline=None)
def test_any_damage_of_a_zip_is_one_line_or_a_whole_result(path, changes, end):
    content = bytearray(WHOLE)
    for at, byte in changes:
        content[at] = byte
    path.write_bytes(content[:end] if end % 3 == 0 else content)
    taken(path)


def taken(path: Path) -> None:
    """The result is refused in one line, or good for all that is made of it."""
    try:
        told, answers = replay.read(path)
    except EdgepruneError as error:
        assert "\n" not in str(error)
        return
    both = told["latency"]["times_ms"], told["dense_latency"]["times_ms"]
    assert all(type(ms) in (int, float) and math.isfinite(ms) and ms > 0 for times in both for ms in times)
    assert len(both[0]) == len(both[1]) and len(answers) == len(told["image_sums"])
    for role in ("dense", "pruned") if told["layers"] else ():
        assert all(math.isfinite(row[2]) for row in told["layers"][role])
    assert all(row["boundaries"] and row["during"]["after"] for row in told["boundaries"].values())
