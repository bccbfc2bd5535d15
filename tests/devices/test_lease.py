"""One measures at a time on a machine, and trainings wait meanwhile."""

import io
import re
import subprocess
import sys
import threading

import pytest

from edgeprune import progress
from edgeprune.devices import agent, lease
from edgeprune.errors import DeviceError
from edgeprune.progress import console, doing
from tests.test_progress import until

HOLDER = "from edgeprune.devices.lease import lease\nwith lease():\n    print('held', flush=True)\n    input()"


@pytest.fixture
def held(tmp_path, monkeypatch):
    """Another process that holds the lease until its input ends."""
    monkeypatch.setenv("EDGEPRUNE_LEASE", str(tmp_path / "lease"))
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        yield other
        other.kill()


def test_trainings_wait_while_another_process_measures_and_not_for_each_other(held):
    waiting = [threading.Thread(target=lease.give_way, daemon=True) for _ in range(2)]
    for one in waiting:
        one.start()
        one.join(0.3)
        assert one.is_alive()
    held.communicate("\n")
    for one in waiting:
        one.join(30)
        assert not one.is_alive()
    with lease.lease():
        pass


def test_who_waits_says_for_whom(held, monkeypatch):
    """At once, and in the same words on a device, whose host passes them on."""
    monkeypatch.setattr(lease, "_SOON", 0.0)
    for wait, words in (
        (lease.give_way, "the training stands still for"),
        (lambda: lease.lease().__enter__(), "waiting for"),
    ):
        said = io.StringIO()
        monkeypatch.setattr(progress, "_WATCH", progress._Watch())
        with doing("prune", console(file=said)):
            threading.Thread(target=wait, daemon=True).start()
            line = until("0 s so far", said)
        who = rf"process {held.pid} \(.*python.*\), which measures on this machine"
        assert re.fullmatch(rf"prune, {words} {who}: 0 s so far\n", line), line
    code = (
        "import sys; sys.path.insert(0, 'deploy/on_device'); import lease; lease.SOON = 0; lease.lease(0.1).__enter__()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert re.search(rf"^{agent._WAITING.decode()}{who}: 0 s so far$", done.stderr, re.M), done.stderr
    assert f"another measurement holds the device: process {held.pid} (" in done.stderr


def test_a_lease_that_never_ends_is_not_waited_for_for_ever(held, monkeypatch):
    """A training says so once and goes on; a measurement, which would be worth nothing, ends."""
    for name in ("_STANDS_STILL", "_PATIENCE", "_OFTEN"):
        monkeypatch.setattr(lease, name, 0.01)
    said = io.StringIO()
    monkeypatch.setattr(lease, "console", lambda: console(file=said))
    monkeypatch.setattr(lease, "_beside", False)
    for _ in range(3):
        lease.give_way()
    assert said.getvalue().count(f"the training goes on beside process {held.pid} (") == 1
    with pytest.raises(DeviceError, match=f"process {held.pid} .* has held the lease"), lease.lease():
        pass
    held.communicate("\n")
    lease.give_way()
    assert not lease._beside, "the next one is waited for again"


def test_a_lease_in_a_folder_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for name, why in (("no/lease", "No such file"), ("file/lease", "Not a directory"), ("link", "it is a link")):
        monkeypatch.setenv("EDGEPRUNE_LEASE", str(tmp_path / name))
        with (
            pytest.raises(
                DeviceError, match=f"cannot be opened for the lease, which EDGEPRUNE_LEASE may put elsewhere: {why}"
            ),
            lease.lease(),
        ):
            pass
        code = "import sys; sys.path.insert(0, 'deploy/on_device'); import lease; lease.lease(0).__enter__()"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert f"RuntimeError: {tmp_path / name}: cannot be opened for the lease: {why}" in done.stderr


def test_all_users_find_the_same_file(monkeypatch, tmp_path):
    """Not in a TMPDIR of one's own; and the agent's is the same."""
    monkeypatch.delenv("EDGEPRUNE_LEASE", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    code = "import sys; sys.path.insert(0, 'deploy/on_device'); import lease; print(lease.LEASE)"
    agents = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert str(lease.path()) == agents == "/tmp/edgeprune.lease"


def test_nobody_waits_where_nobody_has_measured_or_the_file_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEPRUNE_LEASE", str(tmp_path / "none"))
    lease.give_way()
    assert not (tmp_path / "none").exists(), "left to those who measure"
    monkeypatch.setenv("EDGEPRUNE_LEASE", str(tmp_path))
    lease.give_way()
    (tmp_path / "link").symlink_to(tmp_path / "none")
    monkeypatch.setenv("EDGEPRUNE_LEASE", str(tmp_path / "link"))
    lease.give_way()
