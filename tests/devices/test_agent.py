"""What the host makes of an agent's answers, with a link that answers at once."""

import io
from pathlib import Path

import numpy as np
import pytest

from edgeprune.devices import Agent, Replay, agent
from edgeprune.errors import EngineError
from edgeprune.target import Target
from tests.devices import brought

THROTTLED = ["oc3: 2 over-current or under-voltage events"]

TARGET = {"name": "board", "title": "board", "backend": "tensorrt", "precision": "f32", "precisions": ["f32"]}


class Link:
    """Answers every job, and keeps what it was told."""

    name = "board"

    def __init__(self, throttled, **changes):
        self.throttled, self.changes, self.told = throttled, changes, []
        self.answers = b""

    def take(self, path):
        return self.answers

    def put(self, files):
        return "a.onnx"

    def put_array(self, array):
        return "image.npy"

    def job(self, name, told, seconds, keep=""):
        self.told.append((name, told, agent.patience(told, seconds)))
        whole = brought.whole()
        during = whole["during"] | {"throttled": self.throttled, "disturbed": 1, "busy": 2}
        hello = {"version": "tensorrt 10.3.0", "gpu": {"cc": "8.7"}, "fingerprint": whole["device"]}
        measured = whole["boundaries"]["dense"] | {"during": during}
        return {"a": [2.0, 2.0], "b": [1.0, 1.0], "warm": [[12, True]] * 2, "layers": [["conv", "Convolution", 0.5]],
                "backend": "tensorrt 10.3.0", "precision": "f32", "engine": None, "findings": [], "out": "answers.npy",
                **hello, **measured} | self.changes  # fmt: skip


def npy(array):
    held = io.BytesIO()
    np.save(held, array)
    return held.getvalue()


def on(link: Link, **more) -> Agent:
    return Agent(Target.model_validate(TARGET | more), link)


def made() -> agent.AgentEngine:
    return agent.AgentEngine(on(Link([])), "a.onnx", "f32", None, {"backend": "tensorrt 10.3.0", "precision": "f32"})


@pytest.mark.parametrize("throttled", [[], THROTTLED])
def test_a_device_that_was_slowed_down_says_so_with_its_pairs(capsys, throttled):
    pairs = on(Link(throttled)).pairs(made(), made(), np.zeros((1, 2, 2, 3), np.uint8), 2)
    slow, fast, warm, disturbed, busy, _ = pairs
    assert list(slow) == [2, 2] and list(fast) == [1, 1] and warm == [(12, True)] * 2 and (disturbed, busy) == (1, 2)
    assert pairs.throttled == tuple(throttled)
    line = "pairs taken on board are not to be trusted: oc3: 2 over-current or under-voltage events\n"
    assert capsys.readouterr().err == line * len(throttled)


def test_a_result_that_was_brought_says_so_too(tmp_path, capsys):
    told = brought.whole()
    brought.write(tmp_path / "result.zip", told | {"during": told["during"] | {"throttled": THROTTLED}})
    replay = Replay(Target.model_validate(TARGET), tmp_path / "result.zip")
    engines = [replay.build(tmp_path / f"{role}.onnx", tmp_path, "f32") for role in ("dense", "pruned")]
    pairs = replay.pairs(*engines, np.zeros((1, 2, 2, 3), np.uint8), 2)
    assert pairs.throttled == tuple(THROTTLED) and "not to be trusted" in capsys.readouterr().err


def test_the_hosts_patience_holds_the_time_to_cool_down():
    for cool, more in ((None, 0), (60, agent.COOLING)):
        link = Link([])
        board = on(link, cool_below_c=cool, build_seconds=100, run_seconds=40)
        board.pairs(made(), made(), np.zeros((1, 2, 2, 3), np.uint8), 2)
        board.boundaries(made(), np.zeros((1, 2, 2, 3), np.uint8))
        board.fingerprint()
        wait = 100 + more + 60  # for another job, which may cool down, too
        assert [told["wait"] for _, told, _ in link.told] == [wait] * 3
        assert [told["cool"] for _, told, _ in link.told] == [cool or 0, cool or 0, 0], "a greeting measures nothing"
        assert [seconds for *_, seconds in link.told] == [40 + wait + more + 60, 40 + wait + more + 60, 120 + wait + 60]


IMAGE = np.zeros((1, 2, 2, 3), np.uint8)
JOBS = {
    "hello": lambda board: board.version(),
    "pairs": lambda board: board.pairs(made(), made(), IMAGE, 2),
    "measure": lambda board: board.boundaries(made(), IMAGE),
    "layers": lambda board: board.layers(Path("a.onnx"), "f32"),
    "doctor": lambda board: board.doctor(),
}


@pytest.mark.parametrize(
    ("job", "changes", "said"),
    [
        ("hello", {"version": ""}, "version"),
        ("hello", {"fingerprint": {"machine": "x"}}, r"fingerprint\.board: is missing"),
        ("hello", {"gpu": "RTX"}, "gpu"),
        ("pairs", {"a": [2.0]}, "pairs have two times each, not 1 and 2"),
        ("pairs", {"a": [2.0, float("nan")]}, r"a\[1\]"),
        ("pairs", {"b": [0.0, 1.0]}, r"b\[0\]"),
        ("pairs", {"b": "fast"}, "b:"),
        ("pairs", {"warm": [[12, True]]}, "warm"),
        ("pairs", {"during": {}}, "during"),
        ("measure", {"boundaries": {}}, "boundaries"),
        ("layers", {"layers": [["conv", "Convolution", -1.0]]}, "layers"),
        ("layers", {"layers": None}, "layers"),
        ("doctor", {"findings": [{"level": "fine", "what": "x", "todo": ""}]}, r"findings\[0\]\.level"),
    ],
)
def test_an_answer_that_no_agent_writes_is_refused_with_its_key(job, changes, said):
    JOBS[job](on(Link([])))
    with pytest.raises(EngineError, match=rf"^board: the agent's answer to {job} is not as it writes them: .*{said}"):
        JOBS[job](on(Link([], **changes)))


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (b"", "no whole array"),
        (b"PK\x03\x04", "no whole array"),
        (npy(np.zeros((2, 4), np.float32)), r"to 1 images are float32 of shape \(2, 4\)"),
        (npy(np.array("text")), "to 1 images are <U4"),
        (npy(np.full((1, 4), np.nan, np.float32)), "not all finite"),
    ],
)
def test_answers_to_other_images_are_refused(answers, said):
    link = Link([])
    link.answers = npy(np.zeros((1, 2, 2), np.uint8))
    assert on(link).predict(made(), IMAGE).shape == (1, 2, 2)
    link.answers = answers
    with pytest.raises(EngineError, match=rf"^board: the agent's answers .*{said}"):
        on(link).predict(made(), IMAGE)
