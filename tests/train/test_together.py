"""Two processes train as one with the doubled batch does: batch norms, gradients and the loss are over all of them."""

from pathlib import Path

import pytest
import torch

from edgeprune.files import load_tensors, read_json
from tests.forks import team
from tests.train import together


def test_two_processes_train_as_one_with_the_doubled_batch(tmp_path: Path):
    one, two = tmp_path / "one", tmp_path / "two"
    together.main(one, 4)
    team(together.in_team, two, 2)
    losses = [[note["loss"] for note in read_json(home / "history.json")] for home in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)
    assert losses[0][-1] < 0.99 * losses[0][0]
    weights = [load_tensors(home / "weights.safetensors") for home in (one, two)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=5e-2, atol=5e-3, msg=lambda m, n=name: f"{n}: {m}")
