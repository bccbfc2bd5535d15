from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgeprune.deploy.export import Heads, export
from edgeprune.deploy.pools import SplitPool, with_split_pools
from edgeprune.runtime import BACKENDS


@pytest.mark.parametrize("size", [(8, 12), (7, 13), (90, 90), (5, 3)])
@pytest.mark.parametrize("bins", [(2, 2), (3, 3), (6, 4)])
def test_the_same_means(size, bins):
    x = torch.randn(2, 3, *size)
    torch.testing.assert_close(SplitPool(bins)(x), nn.AdaptiveAvgPool2d(bins)(x))


def test_only_pools_of_several_bins_are_replaced_and_in_a_copy():
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d((None, 3)), nn.AdaptiveAvgPool2d(3))
    plain = with_split_pools(net)
    assert [isinstance(m, SplitPool) for m in plain] == [False, False, True]
    assert isinstance(net[2], nn.AdaptiveAvgPool2d)
    one = nn.Sequential(nn.AdaptiveAvgPool2d(1))
    assert with_split_pools(one) is one


class Means(nn.Module):
    """Every mean that the networks have: over rows, columns and both, kept or not; and one over channels, which is no pool."""

    def forward(self, x):
        kept = x.mean(2, keepdim=True) + x.mean(3, keepdim=True) + x.mean((2, 3), keepdim=True)
        flat = x.mean((-1, -2)).sum() + x.mean(-1).sum() + SplitPool((3, 2))(x).sum()
        return kept + flat + nn.AdaptiveAvgPool2d(1)(x) + x.mean(1, keepdim=True)


@pytest.fixture(scope="module")
def means(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("means") / "means.onnx"
    export(Heads(Means(), (0.5,) * 3, (0.25,) * 3, "heads"), (16, 23), path, 20)
    return path


def test_means_ship_as_pools_and_only_those_that_are_none_stay(means):
    """TensorRT 8's parser reads no axes that are an input, but of ReduceSum."""
    graph = onnx.load(means).graph
    axes = {i.name: onnx.numpy_helper.to_array(i).tolist() for i in graph.initializer}
    assert [axes[n.input[1]] for n in graph.node if n.op_type == "ReduceMean"] == [[1]]
    assert {"AveragePool", "GlobalAveragePool", "Squeeze"} <= {n.op_type for n in graph.node}
    used = {name for n in graph.node for name in n.input}
    assert not [i.name for i in graph.initializer if i.name not in used]
    onnx.checker.check_model(onnx.load(means), full_check=True)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_pooled_means_are_the_same_everywhere(means, tmp_path, backend):
    image = np.random.default_rng(0).integers(0, 256, (1, 16, 23, 3)).astype(np.uint8)
    found = BACKENDS[backend].compile(means, tmp_path, precision="f32").predict(image)
    with torch.no_grad():
        wanted = Heads(Means(), (0.5,) * 3, (0.25,) * 3, "heads")(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
