"""Nothing leaves the machine: a whole run, and each library that would report by itself, is watched while it works.

`strace` sees what C++ does, where it is installed; Python's audit hooks and the files that a run leaves behind are looked at everywhere.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgeprune import telemetry
from edgeprune.shipped import shipped
from tests.e2e.running import command
from tests.runtime.graphs import network, onnx_of

SILENT = {"CI", "TF_BUILD", "JENKINS_URL", "NNCF_CI", *telemetry.OFF}  # where libraries keep quiet by themselves
WATCH = """
import os, sys
def watch(event, args):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        with open(os.environ["TOLD"], "a") as told:
            told.write(f"{event} {args[1:]}\\n" if event in ("socket.connect", "socket.sendto") else f"{event} {args}\\n")
sys.addaudithook(watch)
"""
ONE = "import onnxruntime as o, sys; o.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])"
_HERE = re.compile(r'inet_addr\("127\.|inet_pton\(AF_INET6, "::1"')
_ASKED = re.compile(r"(connect|sendto|sendmsg|sendmmsg)\(.*(AF_INET|htons\(53\)|systemd/resolve)")


def left(calls: str) -> list[str]:
    """The system calls that reach out: to anything but this machine, or with a name to anybody who looks names up."""
    lines = [line for line in calls.splitlines() if _ASKED.search(line)]
    return [line for line in lines if not _HERE.search(line) or "htons(53)" in line]


def watched(home: Path, line: list[str], **more: str) -> tuple[list[str], set[str], subprocess.CompletedProcess[str]]:
    """(what the processes sent or asked, the files that they left behind in the user's home and temporary folders, the process)."""
    for name in ("home", "tmp", "site"):
        (home / name).mkdir(parents=True)
    (home / "site" / "sitecustomize.py").write_text(WATCH)
    (home / "told").touch()
    environment = {k: v for k, v in os.environ.items() if k not in SILENT and not k.startswith("XDG_")} | {
        "HOME": str(home / "home"), "TMPDIR": str(home / "tmp"), "TOLD": str(home / "told"),
        "PYTHONPATH": f"{home / 'site'}:{os.environ.get('PYTHONPATH', '')}:{Path(__file__).parents[2]}", **more,
    }  # fmt: skip
    strace = tracer(home)
    done = subprocess.run([*strace, *line], env=environment, capture_output=True, text=True)
    sent = (home / "told").read_text().splitlines() + (left((home / "calls").read_text()) if strace else [])
    found = {str(p.relative_to(home)) for name in ("home", "tmp") for p in (home / name).rglob("*") if p.is_file()}
    return sent, found, done


def tracer(home: Path) -> list[str]:
    """The command before a command that writes its system calls to `home / "calls"`; none where strace is not here, or may not trace."""
    line = ["strace", "-f", "-qq", "-e", "trace=network", "-o", str(home / "calls")]
    for tried in (
        ([*line, "--seccomp-bpf"], line) if shutil.which("strace") else ()
    ):  # the first stops at these calls only
        if subprocess.run([*tried, "true"], capture_output=True).returncode == 0:
            return tried
    return []


def reports(files: set[str]) -> set[str]:
    """Of the files, those that are kept for reports: device ids, event stores, counts."""
    return {f for f in files if re.search(r"(?i)microsoft|deviceid|\.ses$|\.db|intel/|huggingface|telemetry", f)}


def test_a_whole_run_asks_nobody_and_keeps_no_identity(tmp_path):
    line = command(tmp_path / "runs", "deploy.simplify=true", "deploy.precision=int8")
    sent, files, done = watched(tmp_path / "watched", line)
    assert done.returncode in (0, 3), done.stderr  # the gates are not what is looked at
    assert sent == [] and reports(files) == set()


def test_the_watch_sees_a_runtime_that_reports(tmp_path):
    graph = onnx_of(network(), tmp_path / "n.onnx")
    _, files, _ = watched(tmp_path / "loud", [sys.executable, "-c", ONE, str(graph)])
    if not reports(files):
        pytest.skip("skipped, this ONNX Runtime reports nothing")
    quiet, files, _ = watched(tmp_path / "quiet", [sys.executable, "-c", f"import edgeprune; {ONE}", str(graph)])
    assert quiet == [] and reports(files) == set()


def test_the_devices_scripts_ask_nobody(tmp_path):
    """They run without edgeprune, and inherit nothing of it."""
    graph = onnx_of(network(), tmp_path / "n.onnx")
    agent = [sys.executable, str(shipped("deploy/on_device") / "agent.py"), "build", "--backend", "onnxruntime"]
    sent, files, done = watched(tmp_path / "watched", [*agent, "--model", str(graph)])
    assert done.returncode == 0, done.stderr
    assert sent == [] and reports(files) == set()


def test_what_a_program_imported_before_us_is_turned_off_too(monkeypatch):
    class Telemetry:
        def __init__(self, *args: object, **more: object) -> None:
            raise AssertionError("reported")

        init = start_session = send_event = send_error = send_stack_trace = end_session = force_shutdown = __init__

    asked: list[bool] = []
    runtime = SimpleNamespace(disable_telemetry_events=lambda: asked.append(True))
    monkeypatch.setitem(sys.modules, telemetry.REPORTER, SimpleNamespace(Telemetry=Telemetry))
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    telemetry.turn_off()
    told = Telemetry("app", tid="1")
    told.start_session("ovc"), told.send_event("ovc", "graph", "mine"), told.end_session("ovc")
    assert asked == [True]


@pytest.mark.parametrize("told", ["0", "1", None])
def test_the_variables_are_set_whatever_they_were(told):
    code = "import edgeprune, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    environment |= {} if told is None else {"ORT_DISABLE_TELEMETRY": told}
    assert subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True).stdout == "1\n"


def test_calls_are_told_apart():
    calls = """1 connect(3, {sa_family=AF_UNIX, sun_path="/var/run/nscd/socket"}, 110) = -1 ENOENT
1 connect(3, {sa_family=AF_INET, sin_port=htons(29500), sin_addr=inet_addr("127.0.0.1")}, 16) = 0
2 connect(8, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("127.0.0.53")}, 16) = 0
3 connect(8, {sa_family=AF_UNIX, sun_path="/run/systemd/resolve/io.systemd.Resolve"}, 42) = 0
4 connect(8, {sa_family=AF_INET6, sin6_port=htons(443), inet_pton(AF_INET6, "2603::1", &sin6_addr)}, 28) = -1
5 sendto(8, "abc", 3, MSG_NOSIGNAL, {sa_family=AF_INET, sin_port=htons(9), sin_addr=inet_addr("10.0.0.1")}, 16) = 3"""
    assert [line[0] for line in left(calls)] == ["2", "3", "4", "5"]
