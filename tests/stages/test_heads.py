"""What the dense network's masks allow is asked of the pruned network's, too, before it ships."""

import pytest

from edgeprune.stages import heads, load
from tests.stages.test_prune import job


@pytest.mark.parametrize(("agreement", "ships"), [(0.999, "chain"), (0.01, "coarse")])
def test_a_coarse_head_ships_only_where_the_pruned_networks_masks_pass(tmp_path, agreement, ships):
    loose = "deploy.gates={miou_drop: null, class_drop: null, boundary_drop: null, pixel_agreement: %s}"
    run = job(tmp_path, loose % agreement, network="streetnet")
    net = load.dense(run)
    run.facts["profile"] = {"head": "coarse", "exact_head": "chain"}
    assert heads.shipped(run, net) == ships
    run.facts["profile"] = {"head": "coarse"}  # the user's own wish
    assert heads.shipped(run, net) == "coarse"
    assert not list(tmp_path.rglob("head-coarse.onnx"))
