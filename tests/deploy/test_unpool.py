import onnx
import pytest
import torch
from torch import nn

from edgeprune import models
from edgeprune.deploy.export import Shipped, export
from edgeprune.deploy.plain import plain
from edgeprune.deploy.unpool import ShuffledUnpool, SlicedPool, without_indices


@pytest.mark.parametrize("size", [(8, 12), (7, 13), (2, 2)])
def test_bit_exact_with_ties(size):
    x = torch.relu(torch.randn(2, 5, *size)).mul(2).round()  # many ties, many all-zero windows
    pool, unpool = nn.MaxPool2d(2, 2, return_indices=True), nn.MaxUnpool2d(2, 2)
    top, places = pool(x)
    ours, where = SlicedPool()(x)
    assert torch.equal(ours, top)
    y = torch.randn_like(top)
    assert torch.equal(
        ShuffledUnpool()(y, where, output_size=x.shape[-2:]), unpool(y, places, output_size=x.shape[-2:])
    )


def test_segnet_on_odd_sizes():
    net = models.build("segnet", {"widths": ((4, 4), (8, 8), (8, 8))}, None, 5).eval()
    x = torch.randn(1, 3, 45, 62)
    plain = without_indices(net, x)
    assert not any(isinstance(m, nn.MaxUnpool2d) for m in plain.modules())
    assert any(isinstance(m, nn.MaxUnpool2d) for m in net.modules())  # the network itself is left alone
    assert torch.equal(plain(x), net(x))


@pytest.mark.parametrize("reckon", [lambda i: i // 2 * 2, lambda i: i.view(2, 3, 4, 4), lambda i: i.double().long()])
def test_a_network_that_reckons_with_indices_is_left_as_it_is(reckon):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool, self.unpool = nn.MaxPool2d(2, 2, return_indices=True), nn.MaxUnpool2d(2, 2)

        def forward(self, x):
            y, places = self.pool(x)
            return self.unpool(y, reckon(places))

    net, x = Odd().eval(), torch.randn(2, 3, 8, 8)
    assert torch.equal(without_indices(net, x)(x), net(x))


def test_others_are_handed_through():
    net = models.build("streetnet", {"width": 8}, None, 3)
    assert without_indices(net, torch.zeros(1, 3, 32, 32)) is net


def test_what_ships_of_segnet_is_slices_and_a_shuffle(tmp_path):
    """TensorRT's parser has no MaxUnpool and no indices of MaxPool, and scatters slowly."""
    net = models.build("segnet", {"widths": ((4, 4), (8, 8))}, None, 5).eval()
    export(Shipped(plain(net, torch.zeros(1, 3, 32, 48)), (0.5,) * 3, (0.25,) * 3), (32, 48), tmp_path / "s.onnx", 18)
    nodes = onnx.load(tmp_path / "s.onnx").graph.node
    kinds = {n.op_type for n in nodes}
    assert not kinds & {"MaxUnpool", "ScatterND", "ScatterElements", "NonZero", "GatherND"}
    assert "DepthToSpace" in kinds or {"Reshape", "Transpose"} <= kinds
    assert all(len(n.output) == 1 for n in nodes if n.op_type == "MaxPool")
