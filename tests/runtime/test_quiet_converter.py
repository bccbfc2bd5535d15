"""What OpenVINO's converter and NNCF would tell their makers of every graph stays here."""

import os
import subprocess
import sys

from tests.runtime.graphs import network, onnx_of

CODE = """
import sys; from pathlib import Path
from edgeprune.runtime import openvino
openvino.convert(Path(sys.argv[1]), Path(sys.argv[2]), "f32")
import nncf.telemetry.wrapper as of_nncf
assert "NNCFTelemetry'" not in str(type(of_nncf.telemetry))
"""


def test_nothing_is_reported(tmp_path):
    graph, home = onnx_of(network(), tmp_path / "n.onnx"), tmp_path / "home"
    home.mkdir()
    silent = {"CI", "TF_BUILD", "JENKINS_URL"}  # where their reporter keeps quiet by itself
    environment = {k: v for k, v in os.environ.items() if k not in silent} | {"HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(graph), str(tmp_path)], env=environment, stderr=-1, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "engine.xml").exists()
    assert not (home / "intel").exists()  # its client's number and its counts
