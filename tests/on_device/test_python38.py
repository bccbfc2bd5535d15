"""The device's scripts under the oldest Python that a supported JetPack has, where one is installed."""

import json
import shutil
import subprocess

import pytest

from edgeprune.deploy.bundle import SCRIPTS
from edgeprune.devices import agent
from edgeprune.shipped import shipped

HOME = shipped("deploy/on_device")


def test_every_script_goes_to_the_device_one_way_or_the_other():
    there = {path.name for path in HOME.iterdir() if path.suffix in (".py", ".sh")}
    assert there == {*SCRIPTS, *agent.SCRIPTS} and "agent.py" not in SCRIPTS


@pytest.fixture
def old() -> str:
    found = shutil.which("python3.8")
    if not found or subprocess.run([found, "-c", "pass"], capture_output=True).returncode:
        pytest.skip("skipped, no Python 3.8")
    return found


def test_they_compile_and_the_doctor_runs_with_nothing_but_python(old):
    code = "import sys; [compile(open(p).read(), p, 'exec') for p in sys.argv[1:]]"
    scripts = [str(path) for path in HOME.glob("*.py")]
    subprocess.run([old, "-c", code, *scripts], check=True)
    done = subprocess.run([old, "-B", "-I", str(HOME / "doctor.py"), "--json"], capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    told = json.loads(done.stdout)["findings"]
    assert told[0]["what"].startswith("Python 3.8") and any("TensorRT" in row["what"] for row in told)
