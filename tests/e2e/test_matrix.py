"""Every method on two of three networks of unlike shapes: scored, cut and proven. Which two goes in turn, so that every network meets
methods of every kind. Each network is exported and compiled by OpenVINO once, with the same masks: what ships knows no method.
"""

import numpy as np
import pytest
import torch

from edgeprune import models
from edgeprune.data.transforms import IMAGENET, normalised
from edgeprune.deploy.export import Shipped, export
from edgeprune.deploy.plain import plain
from edgeprune.profile.macs import count_macs
from edgeprune.prune.criteria import CRITERIA
from edgeprune.runtime import openvino
from edgeprune.stages import finetune, load
from edgeprune.stages.prune import prune
from tests.models.small import Centred
from tests.stages.test_prune import NETWORKS, TAUGHT, job, method

_TURN = [*NETWORKS, *NETWORKS]
PAIRS = [(name, _TURN[n % 3 + more], n < 3 and not more) for n, name in enumerate(CRITERIA) for more in (0, 1)]


@pytest.mark.parametrize(("name", "network", "shipped"), PAIRS, ids=lambda x: str(x))
def test_every_method_prunes_proves_and_ships(tmp_path, name, network, shipped):
    run = job(tmp_path, *method(name), network=network)
    facts = prune(run)
    assert max(facts["proof"].values()) < 1e-4
    assert 0.8 * facts["budget"]["limit"] < facts["budget"]["achieved"] <= facts["budget"]["limit"]
    assert facts["macs"] == facts["budget"]["achieved"]
    small = finetune.pruned(run, "prune")
    assert count_macs(small, run.recipe.data.size) == facts["macs"]
    assert models.logits_of(small(torch.randn(1, 3, 32, 64))).shape == (1, 9, 32, 64)
    assert facts["training_steps"] == (4 if name in TAUGHT else 0)
    assert 0 <= facts["criterion_seconds"] <= facts["scoring_seconds"]
    assert not list((tmp_path / "prune").rglob("round*"))

    if shipped:
        ships(run, small, tmp_path)


def ships(run, small, home):
    images = np.stack([load.dataset(run, "val")[n][0] for n in (0, 1)])
    centred = Centred(small, images).eval()
    export(Shipped(plain(centred, load.example(run)), *IMAGENET), (32, 64), home / "n.onnx", 20)
    masks = openvino.compile(home / "n.onnx", home, precision="f32").predict(images)
    with torch.no_grad():
        expected = models.logits_of(centred(normalised(images))).argmax(1).numpy()
    assert len(np.unique(expected)) > 2 and (masks == expected).mean() > 0.998
