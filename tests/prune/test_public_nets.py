"""Networks of public repositories: found, cut to half, proven, exported and compared in OpenVINO."""

import numpy as np
import pytest
import torch
from torch import nn

from edgeprune.deploy.export import Shipped, export
from edgeprune.deploy.plain import plain
from edgeprune.prune.groups import find_groups
from edgeprune.prune.plan import make_plan
from edgeprune.prune.proof import prove
from edgeprune.prune.surgery import fold_constants
from edgeprune.runtime import openvino
from tests.prune import public_nets as public

SIZE = (32, 48)
INPUT = "the network's input"
# network -> how many groups there are, and what stays besides the classifier: why, and a module of it
EXPECTED = {
    public.ENet: (24, {INPUT: "down1.branch.2.0"}),  # the image's channels are in every sum
    public.DABNet: (6, {INPUT: "block1.0.wide"}),
    public.LEDNet: (21, {INPUT: "encoder.1.left.5", "broadcast over channels": "decoder.side1.0"}),
    public.BiSeNet: (11, {}),
    public.UNet: (12, {}),
    public.CGNet: (4, {}),
}


@pytest.mark.parametrize("build", EXPECTED, ids=lambda b: b.__name__)
def test_public_networks_are_cut_to_half_and_run_in_openvino(build, tmp_path):
    torch.manual_seed(0)
    net, size = (
        build().eval(),
        (30, 42) if build is public.UNet else SIZE,
    )  # its skips are then larger than what comes up
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):  # unlike classes, and constants to fold
            nn.init.normal_(m.bias, 0, 0.3)
            nn.init.uniform_(m.running_var, 0.5, 2)
    example = torch.zeros(1, 3, *size)
    graph = find_groups(net, example)
    groups, kept = EXPECTED[build]
    why = {reason: module for module, reason in reversed(graph.unprunable.items())}
    assert len(graph.groups) == groups
    assert set(why) - {"an output of the network"} == set(kept)
    assert all(graph.unprunable[module] == reason for reason, module in kept.items())
    plan = make_plan(net, graph, {g.name: np.arange(g.size // 2, g.size) for g in graph.groups})
    prove(net, graph, plan, example)
    small = fold_constants(net, graph, plan, example)[0].eval()
    export(Shipped(plain(small, example), (0.5,) * 3, (0.25,) * 3), size, tmp_path / "p.onnx", 20)
    engine = openvino.compile(tmp_path / "p.onnx", tmp_path / "engine", precision="f32")
    pixels = np.random.default_rng(0).integers(0, 256, (1, *size, 3)).astype(np.uint8)
    wanted = Shipped(small, (0.5,) * 3, (0.25,) * 3)(torch.from_numpy(pixels)).numpy()
    assert (engine.predict(pixels) == wanted).mean() > 0.999
