"""Our groups against torch-pruning's, for the networks where it is right: the same convolutions are cut together."""

import pytest
import torch
import torch_pruning as tp
from torch import nn

from edgeprune import models
from edgeprune.prune.groups import find_groups
from tests.models.small import SMALL
from tests.prune import nets

X = torch.zeros(1, 3, 64, 64)


def ours(net: nn.Module, never=()) -> set[frozenset[str]]:
    """The sets of convolutions whose outputs go together."""
    kept = set()
    for group in find_groups(net, X, never).groups:
        kept.add(frozenset(m.module for m in group.members if m.kind == "out"))
    return kept


def theirs(net: nn.Module, ignored: list[nn.Module]) -> set[frozenset[str]]:
    names = {module: name for name, module in net.named_modules()}
    graph = tp.DependencyGraph().build_dependency(net, example_inputs=X)
    kept = set()
    outs = (tp.prune_conv_out_channels, tp.prune_depthwise_conv_out_channels, tp.prune_linear_out_channels)
    for group in graph.get_all_groups(ignored_layers=ignored, root_module_types=[nn.Conv2d]):
        found = {names[dep.target.module] for dep, _ in group if dep.handler in outs}
        kept.add(frozenset(found))
    return kept


def heads(net: nn.Module, classes: int) -> list[nn.Module]:
    return [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.out_channels == classes]


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("streetnet", {"width": 8, "blocks": 2}),
        ("deeplabv3", {"depth": 18, "width": 8, "head": 16, "aux": False}),
        ("deeplabv3", {"depth": 50, "width": 8, "head": 16, "aux": False}),
        ("deeplabv3plus", {"depth": 18, "width": 8, "head": 16, "aux": False}),
        *((name, {**SMALL[name], "aux": False}) for name in ("pspnet", "icnet", "fastscnn", "ddrnet")),
    ],
)
def test_the_same_convolutions_go_together(name, args):
    net = models.build(name, args, None, 5).eval()
    assert ours(net) == theirs(net, heads(net, 5))


def test_a_residual_net():
    net = nets.Residual().eval()
    assert ours(net) == theirs(net, [net.head])
