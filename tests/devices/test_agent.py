"""What the host makes of an agent's answers, with a link that answers at once."""

import numpy as np
import pytest

from edgeprune.devices import Agent, Replay, agent
from edgeprune.target import Target
from tests.devices import brought

THROTTLED = ["oc3: 2 over-current or under-voltage events"]

TARGET = {"name": "board", "title": "board", "backend": "tensorrt", "precision": "f32", "precisions": ["f32"]}


class Link:
    """Answers every job, and keeps what it was told."""

    name = "board"

    def __init__(self, throttled):
        self.throttled, self.told = throttled, []

    def put_array(self, array):
        return "image.npy"

    def job(self, name, told, seconds, keep=""):
        self.told.append((name, told, agent.patience(told, seconds)))
        during = {"throttled": self.throttled, "disturbed": 1, "busy": 2}
        return {"a": [2.0, 2.0], "b": [1.0, 1.0], "warm": [[12, True]] * 2, "during": during,
                "settings": {}, "boundaries": {}, "fingerprint": {}}  # fmt: skip


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
