"""An sshd of our own on loopback, which stands in for a board's."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgeprune.devices import ssh
from edgeprune.target import Target

SSHD = shutil.which("sshd") or ("/usr/sbin/sshd" if Path("/usr/sbin/sshd").exists() else None)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """An sshd of our own on a free port; gives (Target, home of the user there)."""
    if not (SSHD and shutil.which("ssh")):
        pytest.skip("skipped, no OpenSSH server and client here")
    home = tmp_path_factory.mktemp("sshd")
    for name in ("host", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / name)], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    there = home / "there"
    there.mkdir()
    shutil.copy(home / "client.pub", home / "authorized")
    (home / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {home / 'host'}\nAuthorizedKeysFile {home / 'authorized'}\n"
        f"PidFile {home / 'pid'}\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
        f"SetEnv HOME={there} EDGEPRUNE_LEASE={there / 'lease'}\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    process = subprocess.Popen([str(SSHD), "-D", "-f", str(home / "config")], stderr=subprocess.DEVNULL)
    key = (home / "host.pub").read_text().split()
    (home / "known").write_text(f"[127.0.0.1]:{port} {key[0]} {key[1]}\n")
    options = [
        "-p",
        str(port),
        "-i",
        str(home / "client"),
        "-o",
        f"UserKnownHostsFile={home / 'known'}",
        "-F",
        "/dev/null",
    ]
    target = Target.model_validate(
        {
            "name": "board", "title": "loopback", "backend": "openvino", "precision": "f32", "precisions": ["f32", "int8"],
            "host": "127.0.0.1", "ssh": options, "python": sys.executable,
        }
    )  # fmt: skip
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    probe = subprocess.run(["ssh", *ssh._OPTIONS, *options, "127.0.0.1", "cd && pwd"], capture_output=True, text=True)
    if probe.returncode != 0 or probe.stdout.strip() != str(there):
        process.terminate()
        pytest.skip(f"skipped, no sshd of our own can be run here: {probe.stderr.strip()[-200:]} {probe.stdout}")
    yield target, there
    process.terminate()
    process.wait()
