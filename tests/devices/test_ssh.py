"""The ssh device against a real sshd on loopback, with OpenVINO as the runtime of the other side."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgeprune.deploy.export import Shipped, export
from edgeprune.devices import agent, device_of, ssh
from edgeprune.errors import DeviceError, EngineError
from edgeprune.profile import probes
from edgeprune.profile.probes import Key
from edgeprune.runtime import openvino
from edgeprune.runtime.signature import Signature
from edgeprune.target import Target


@pytest.fixture
def board(server):
    return device_of(server[0])


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    """Two small graphs of different cost, as they ship."""
    home, paths = tmp_path_factory.mktemp("graphs"), []
    for width in (48, 8):
        torch.manual_seed(width)
        net = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, 4, 3, 1, 1))
        export(Shipped(net, (0.5,) * 3, (0.25,) * 3), (64, 96), home / f"{width}.onnx", 20)
        paths.append(home / f"{width}.onnx")
    return paths


IMAGES = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3)).astype(np.uint8)


def test_it_is_there_and_says_what_it_is(board):
    assert board.why_not() is None
    assert board.version() == openvino.version()
    assert {"cpu", "cores", "power_mode", "device"} <= board.identity().keys()


def test_engines_are_built_measured_and_run_there(board, graphs, tmp_path):
    wide, narrow = (board.build(g, tmp_path / g.stem, "f32") for g in graphs)
    assert (wide.precision, wide.backend) == ("f32", openvino.version())
    a, b, warm, *_ = board.pairs(wide, narrow, IMAGES[:1], 12)
    assert a.shape == b.shape == (12,) and (a > 0).all() and (b > 0).all() and len(warm) == 2
    here = openvino.compile(graphs[0], tmp_path / "here", precision="f32")
    assert np.array_equal(wide.predict(IMAGES), here.predict(IMAGES))


def test_int8_is_quantised_here_and_runs_there(board, graphs, tmp_path):
    made = board.build(graphs[0], tmp_path, "int8", iter(IMAGES))
    assert made.precision == "int8"
    assert made.predict(IMAGES).shape == (3, 64, 96)
    a, b, *_ = board.pairs(made, board.build(graphs[0], tmp_path / "f32", "f32"), IMAGES[:1], 8)
    assert len(a) == len(b) == 8, "engines of unlike precision are timed in turn"


def test_layers_of_probe_graphs(board, tmp_path):
    s = Signature("conv", (3, 3), (1, 1), (1, 1), (1, 1), 1, (16, 32))
    keys = [Key(s, 16, 16), Key(s, 32, 32), Key(s, 64, 64)]
    probes.write(keys, tmp_path / "probes.onnx", "f32")
    found, reference = probes.read(keys, board.layers(tmp_path / "probes.onnx", "f32"))
    assert set(found) == set(keys) and all(ms > 0 for ms in found.values()) and reference > 0


def test_changed_files_are_never_run(server, graphs, tmp_path):
    target, there = server
    device_of(target).build(graphs[1], tmp_path, "f32")
    board = device_of(target)
    made = board.build(graphs[1], tmp_path, "f32")
    model = there / made.model
    model.write_bytes(model.read_bytes() + b" ")
    with pytest.raises(EngineError, match="127.0.0.1"):
        board.predict(made, IMAGES)
    again = device_of(target)  # a new session sees the damage and sends the file anew
    assert again.build(graphs[1], tmp_path, "f32").predict(IMAGES).shape == (3, 64, 96)
    scripts = there / again.link.put([ssh.shipped("deploy/on_device") / n for n in agent.SCRIPTS])
    scripts.write_text("import os; os.mkdir('owned')")
    with pytest.raises(EngineError):
        again.fingerprint()
    assert not (there / "owned").exists()
    assert device_of(target).why_not() is None


def test_an_upload_that_broke_off_goes_on(server, tmp_path):
    target, there = server
    board = device_of(target)
    file = tmp_path / "big.onnx"
    file.write_bytes(os.urandom(300_000))
    sums = f"{ssh.sha256(file)}  big.onnx\n"
    folder = there / ssh.ROOT / "store" / ssh.hashlib.sha256(sums.encode()).hexdigest()[:24]
    folder.mkdir(parents=True)
    (folder / "big.onnx.part").write_bytes(file.read_bytes()[:100_000])
    sent = []
    once = board.link._once
    board.link._once = lambda command, seconds, data=b"": (sent.append(len(data)), once(command, seconds, data))[1]
    board.link.put([file])
    assert (folder / "big.onnx").read_bytes() == file.read_bytes()
    assert 200_000 in sent and 300_000 not in sent


def test_a_file_that_two_were_sending_at_once_is_sent_anew(server, tmp_path):
    target, there = server
    file = tmp_path / "both.onnx"
    file.write_bytes(os.urandom(200_000))
    sums = f"{ssh.sha256(file)}  both.onnx\n"
    folder = there / ssh.ROOT / "store" / ssh.hashlib.sha256(sums.encode()).hexdigest()[:24]
    folder.mkdir(parents=True)
    (folder / "both.onnx.part").write_bytes(file.read_bytes()[:100] * 2)
    device_of(target).link.put([file])
    assert (folder / "both.onnx").read_bytes() == file.read_bytes()


def test_commands_share_a_connection(server):
    board = device_of(server[0])
    assert board.why_not() is None
    control = Path(board.link._private.name) / "ssh"
    assert control.is_socket()
    board.link._hang_up()
    late = time.monotonic() + 30
    while control.exists():  # ssh answers before its master has gone
        assert time.monotonic() < late, "the shared connection is still there"
        time.sleep(0.05)
    assert board.link._ssh("echo there", 60) == b"there\n", "and are not lost with it"


@pytest.mark.parametrize(
    "options", [["-o", "ControlMaster=no"], ["-o", "controlpath=/tmp/%C"], ["-S", "none"], ["-vv"]], ids=lambda o: o[-1]
)
def test_who_has_a_say_in_sharing_keeps_it(server, options):
    target = server[0].model_copy(update={"ssh": [*server[0].ssh, *options]})
    assert "ControlPersist" not in " ".join(device_of(target).link._line)


def test_a_folder_that_ssh_takes_for_no_socket_is_not_used(server, monkeypatch, tmp_path):
    for name in ("with space", "100%", "x" * 80):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(ssh.tempfile, "tempdir", str(tmp_path / name))
        assert str(tmp_path) not in " ".join(device_of(server[0]).link._line)


def test_a_board_that_is_out_of_reach_is_not_asked_at_every_turn(server, monkeypatch):
    board, calls = device_of(server[0]), []
    monkeypatch.setattr(
        board.link, "job", lambda *_, **__: (calls.append(1), (_ for _ in ()).throw(DeviceError("gone")))[1]
    )
    assert board.why_not() == board.why_not() == "gone" and len(calls) == 1
    monkeypatch.setattr(agent, "_REMEMBERED", 0)
    board.why_not()
    assert len(calls) == 2


def test_a_broken_connection_is_tried_again(server, monkeypatch):
    board, calls = device_of(server[0]), []
    monkeypatch.setattr(ssh, "_PAUSE", 0.01)
    run = subprocess.run

    def flaky(line, **more):
        calls.append(line)
        if len(calls) in (2, 3):
            return subprocess.CompletedProcess(line, 255, b"", b"Connection reset by peer\n")
        return run(line, **more)

    monkeypatch.setattr(ssh.subprocess, "run", flaky)
    assert board.why_not() is None
    assert len(calls) >= 4


def test_a_shell_that_greets_is_no_answer(server, tmp_path):
    """An echo in .bashrc stands before every answer: numbers, JSON and files."""
    target, there = server
    (there / ".bashrc").write_text("echo Welcome to the board; echo; echo 17\n")
    try:
        board = device_of(target)
        assert b"Welcome" in subprocess.run([*board.link._line, "true"], capture_output=True, check=True).stdout
        assert board.why_not() is None and board.version().startswith("openvino")
        (tmp_path / "a.bin").write_bytes(b"\x00Welcome to the board\n" * 9)
        assert board.link.take(board.link.put([tmp_path / "a.bin"])) == (tmp_path / "a.bin").read_bytes()
    finally:
        (there / ".bashrc").unlink()


def test_two_measurements_never_overlap(server, graphs, tmp_path, capsys):
    target, there = server
    board = device_of(target)
    made = board.build(graphs[0], tmp_path, "f32")
    script = there / board.link.put([ssh.shipped("deploy/on_device") / n for n in agent.SCRIPTS])
    holder = subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(script.parent)!r}); import agent, time\n"
         "with agent.lease(5):\n    print('held', flush=True); time.sleep(3)"],
        env={**os.environ, "EDGEPRUNE_LEASE": str(there / "lease")}, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout is not None
    holder.stdout.readline()
    started = time.monotonic()
    board.pairs(made, made, IMAGES[:1], 5)
    assert time.monotonic() - started > 1.5, "the measurement did not wait for the lease"
    assert f"{target.host}: waiting for process {holder.pid} (" in capsys.readouterr().err
    holder.wait()


def test_a_job_that_takes_too_long_ends(server, graphs, tmp_path):
    board = device_of(server[0].model_copy(update={"run_seconds": 1}))
    made = board.build(graphs[0], tmp_path, "f32")
    with pytest.raises(DeviceError, match="run_seconds"):
        board.pairs(made, made, IMAGES[:1], 10_000_000)


def test_an_unknown_host_key_is_refused(server, tmp_path):
    target, _ = server
    empty = tmp_path / "known"
    empty.touch()
    options = [f"UserKnownHostsFile={empty}" if o.startswith("UserKnownHostsFile") else o for o in target.ssh]
    reason = device_of(target.model_copy(update={"ssh": options})).why_not()
    assert reason and "host key" in reason


def test_no_host_is_one_line():
    target = Target.model_validate(
        {"name": "b", "title": "b", "backend": "openvino", "precision": "f32", "precisions": ["f32"],
         "host": "127.0.0.1", "ssh": ["-p", "1"]}
    )  # fmt: skip
    ssh._PAUSE, before = 0.01, ssh._PAUSE
    try:
        reason = device_of(target).why_not()
    finally:
        ssh._PAUSE = before
    assert reason and "\n" not in reason and "127.0.0.1" in reason


def test_an_answer_is_kept_for_the_same_question(server, graphs, tmp_path):
    target, there = server
    device_of(target).build(graphs[0], tmp_path, "f32")
    kept = [json.loads(p.read_text()) for p in (there / ssh.ROOT / "answers").glob("*.json")]
    assert any("seconds" in answer for answer in kept)
