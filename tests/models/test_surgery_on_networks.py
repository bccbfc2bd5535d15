"""The surgery proof on our own networks under random plans, some at full width, all others small."""

import numpy as np
import pytest
import torch

from edgeprune import models
from edgeprune.profile.macs import count_macs, count_params
from edgeprune.prune import cost
from edgeprune.prune.groups import find_groups
from edgeprune.prune.plan import make_plan
from edgeprune.prune.proof import prove
from edgeprune.prune.surgery import shrink
from tests.models.small import SMALL

CASES = {
    "deeplabv3-r18": ("deeplabv3", {"depth": 18}),
    "deeplabv3-r50": ("deeplabv3", {"depth": 50}),
    "deeplabv3plus-r18": ("deeplabv3plus", {"depth": 18}),
    "segnet": ("segnet", {"widths": ((32, 32), (64, 64), (128, 128, 128))}),
}
FULL = {network for network, _ in CASES.values()}
CASES["resnet50"] = ("resnet", {"depth": 50, "width": 8})
CASES |= {network: (network, args) for network, args in SMALL.items() if network not in FULL}

# Where not everything can go: why, and a module that says so. Anything else is prunable but for the classifiers.
REFUSED = {
    "ssd": {"reshaped across channels": "answers.0", "concatenated across axes": "answers.4"},
    "enet": {"the network's input": "regular1_1.ext_conv3.0"},
    "erfnet": {"the network's input": "encoder.layers.1.conv1x3_2"},
    "pidnet": {"sum over the channels": "pag3.f_x.0"},
    "segformer": {
        "layer norm: it mixes channels": "segformer.encoder.block.0.0.mlp.dense2",
        "channel axes drawn apart, as attention heads are": "segformer.encoder.block.0.0.attention.self.query",
    },
}


AUXILIARY = ("aux", "seghead_")  # heads in training only


@pytest.mark.parametrize("case", CASES)
def test_surgery_proof_and_macs(case):
    network, args = CASES[case]
    torch.manual_seed(0)
    net = models.build(network, args, None, 12)
    example = torch.zeros(1, 3, 64, 96)
    graph = find_groups(net, example)
    why = {reason: module for module, reason in graph.unprunable.items()}
    aux = "only an output that does not ship reads it"
    assert set(why) - {"an output of the network", aux} == set(REFUSED.get(network, {}))
    spared = [m for m, r in graph.unprunable.items() if r == aux]
    assert all(m.startswith(AUXILIARY) for m in spared), spared
    assert all(graph.unprunable[module] == reason for reason, module in REFUSED.get(network, {}).items())
    rng = np.random.default_rng(0)
    keep = {g.name: rng.permutation(g.size)[: rng.integers(max(1, g.size // 4), g.size + 1)] for g in graph.groups}
    plan = make_plan(net, graph, keep)
    proof = prove(net, graph, plan, example)
    assert max(proof.silenced, proof.folded) < 1e-4
    small = shrink(net, plan)
    assert cost.total(cost.macs(graph))(plan.widths) == pytest.approx(count_macs(small, (64, 96)), rel=1e-3)
    assert cost.total(cost.params(graph))(plan.widths) == count_params(small, (64, 96))


def test_feed_forward_and_decoder_of_a_transformer_can_go():
    net = models.build("segformer", SMALL["segformer"], None, 7)
    groups = {g.name: g.size for g in find_groups(net, torch.zeros(1, 3, 64, 96)).groups}
    hidden, decoder = SMALL["segformer"]["hidden"], SMALL["segformer"]["decoder"]
    inside = {f"segformer.encoder.block.{i}.0.mlp.dense1": n for i, n in enumerate(hidden)}
    stages = {f"decode_head.linear_c.{i}.proj": decoder for i in range(4)}
    assert groups == {**inside, **stages, "decode_head.linear_fuse": decoder}
