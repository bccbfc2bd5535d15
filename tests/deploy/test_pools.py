import pytest
import torch
from torch import nn

from edgeprune.deploy.pools import SplitPool, with_split_pools


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
