"""The agent on the device: what it waits for, and when its time limit begins."""

import inspect
import json
import os
import time

import agent
import lease
import pytest
import saying

from edgeprune.devices import agent as host
from edgeprune.devices.lease import lease as here
from edgeprune.errors import DeviceError


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """What is called, in order; every job answers at once, and no clock runs."""
    made = []
    monkeypatch.setattr(lease, "LEASE", str(tmp_path / "lease"))
    monkeypatch.setattr(agent, "cool_down", lambda below: made.append(("cool", below)))
    monkeypatch.setattr(agent.signal, "alarm", lambda seconds: made.append(("alarm", seconds)))
    monkeypatch.setattr(agent.signal, "signal", lambda *_: None)
    monkeypatch.setattr(agent, "JOBS", {name: lambda args: {} for name in agent.JOBS})
    return made


@pytest.mark.parametrize("job", sorted(agent.JOBS))
def test_only_jobs_that_measure_cool_down_and_not_in_their_own_time(calls, capsys, job):
    assert agent.main([job, "--backend", "openvino", "--cool", "60", "--limit", "5"]) == 0
    assert calls == [("cool", 60 if job in ("layers", "pairs", "measure") else 0), ("alarm", 5), ("alarm", 0)]
    assert json.loads(capsys.readouterr().out) == {"hottest_c": None}


def test_the_host_waits_for_as_long_as_the_device_cools():
    assert inspect.signature(agent.cool_down).parameters["most"].default == host.COOLING and agent.TIMED == host.TIMED


def test_a_greeting_removes_what_nobody_has_asked_for_lately(tmp_path):
    for name, age in (("store/old", 2), ("store/new", 0.5), ("answers/old.json", 2), ("latency.sqlite", 2)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        if name.startswith("store"):
            path.mkdir()
            (path / "model.onnx").touch()
        else:
            path.touch()
        os.utime(path, times=(time.time() - age * agent.KEPT,) * 2)
    agent.tidy(str(tmp_path))
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {"store/new/model.onnx", "latency.sqlite"}
    agent.tidy(str(tmp_path / "nothing yet"))


def test_it_waits_until_it_is_cool_and_says_so(monkeypatch, capsys):
    heat = iter([70.0, 70.0, 65.0, 65.0, 59.0, 59.0, 59.0])
    monkeypatch.setattr(agent.board, "hottest", lambda: next(heat))
    monkeypatch.setattr(agent.time, "sleep", lambda seconds: None)
    assert agent.cool_down(60) == 59.0
    assert capsys.readouterr().err == "waiting for the device to cool down from 70 C to 60: 0 s so far\n"
    monkeypatch.setattr(agent.board, "hottest", lambda: 90.0)
    assert agent.cool_down(60, most=-1) == agent.cool_down(0) == 90.0


def test_a_check_that_takes_long_says_that_it_goes_on(monkeypatch, capsys):
    monkeypatch.setattr(saying, "OFTEN", 0.02)
    deadline, said = time.monotonic() + 30, ""
    with saying.doing("measuring"):
        while "measuring: 0 s so far\n" not in said and time.monotonic() < deadline:
            said += capsys.readouterr().err
    assert "measuring: 0 s so far\n" in said


def test_a_lease_that_is_a_link_is_refused(monkeypatch, tmp_path):
    """In a folder that is everybody's, root would open and write whatever it points to."""
    (tmp_path / "secret").write_text("mine")
    (tmp_path / "lease").symlink_to(tmp_path / "secret")
    monkeypatch.setattr(lease, "LEASE", str(tmp_path / "lease"))
    monkeypatch.setenv("EDGEPRUNE_LEASE", str(tmp_path / "lease"))
    with pytest.raises(RuntimeError, match="a link"), lease.lease(1):
        pass
    with pytest.raises(DeviceError, match="a link"), here():
        pass
    assert (tmp_path / "secret").read_text() == "mine"
