"""Two processes train as one with the doubled batch does: batch norms, gradients and the loss are over all of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edgeprune.files import load_tensors, read_json
from tests.train import together

TOGETHER = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0"]


def test_two_processes_train_as_one_with_the_doubled_batch(tmp_path: Path):
    one, two = tmp_path / "one", tmp_path / "two"
    together.main(one, 4)
    script = [*TOGETHER, "--rdzv_backend", "c10d", together.__file__, str(two), "2"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(script, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    losses = [[note["loss"] for note in read_json(home / "history.json")] for home in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)
    assert losses[0][-1] < 0.99 * losses[0][0]
    weights = [load_tensors(home / "weights.safetensors") for home in (one, two)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=5e-2, atol=5e-3, msg=lambda m, n=name: f"{n}: {m}")
