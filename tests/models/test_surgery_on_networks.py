"""The surgery proof on our own networks at full width, under random plans; parameter counts as published."""

import numpy as np
import pytest
import torch

from edgeprune import models
from edgeprune.profile.macs import count_macs
from edgeprune.prune import cost
from edgeprune.prune.groups import find_groups
from edgeprune.prune.plan import make_plan
from edgeprune.prune.proof import prove
from edgeprune.prune.surgery import shrink

CASES = {
    "deeplabv3-r18": ("deeplabv3", {"depth": 18}),
    "deeplabv3-r50": ("deeplabv3", {"depth": 50}),
    "deeplabv3plus-r18": ("deeplabv3plus", {"depth": 18}),
    "segnet": ("segnet", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_surgery_proof_and_macs(case):
    network, args = CASES[case]
    torch.manual_seed(0)
    net = models.build(network, args, None, 12)
    example = torch.zeros(1, 3, 64, 96)
    graph = find_groups(net, example)
    rng = np.random.default_rng(0)
    keep = {g.name: rng.permutation(g.size)[: rng.integers(g.size // 4, g.size)] for g in graph.groups}
    plan = make_plan(net, graph, keep)
    proof = prove(net, graph, plan, example)
    assert max(proof.silenced, proof.folded) < 1e-4
    small = shrink(net, plan)
    assert cost.total(cost.macs(graph))(plan.widths) == pytest.approx(count_macs(small, (64, 96)), rel=1e-3)
    assert cost.total(cost.params(graph))(plan.widths) == sum(p.numel() for p in small.parameters())


def test_published_parameter_counts():
    def count(*args):
        return sum(p.numel() for p in models.build(*args).parameters())

    assert count("deeplabv3", {"depth": 50}, None, 21) == 42_004_074
    assert count("deeplabv3", {"depth": 101}, None, 21) == 60_996_202
    assert round(count("segnet", {}, None, 12) / 1e6, 2) in (29.44, 29.45)
