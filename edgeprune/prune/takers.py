"""What can take a constant that is to be added to a layer's output: the layer's own bias, or the norm behind it.

Read off the captured graph, call by call, so it does not matter which module's forward makes a call. A tensor that is read
anywhere else, or that another name stands for, would carry the constant to where it does not belong.
"""

from __future__ import annotations

from collections import Counter

from torch import nn
from torch.fx import Node

_LAYERS = ("aten.conv", "aten.linear")


def own_biases(net: nn.Module, named: dict[Node, str]) -> frozenset[str]:
    """Layers every call of which adds their bias, which nothing else reads.

    Args:
        named: the graph's parameters and buffers.
    """
    found = set()
    for layer, weight in _weights(named).items():
        biases = {_input(call, 2) for call in weight.users if _reads(call, weight)}
        bias = biases.pop() if len(biases) == 1 else None
        if bias in named and named[bias] == f"{layer}.bias" and set(bias.users) == set(weight.users):
            found.add(layer)
    return frozenset(found - _shared(net))


def norms_behind(net: nn.Module, named: dict[Node, str]) -> dict[str, str]:
    """Layer -> the norm that reads every result of it and nothing else, and whose running mean nothing else reads."""
    found: dict[str, str] = {}
    for layer, weight in _weights(named).items():
        calls = [call for call in weight.users if _reads(call, weight)]
        readers = [reader for call in calls for reader in call.users]
        if not readers or len(calls) != len(weight.users) or len(readers) != len(calls):
            continue
        means = {_input(r, 3) if _is_norm(r) and r.args[0] in calls else None for r in readers}
        mean = means.pop() if len(means) == 1 else None
        if mean in named and set(mean.users) == set(readers):
            found[layer] = named[mean].rpartition(".")[0]
    shared = _shared(net)
    return {layer: norm for layer, norm in found.items() if not {layer, norm} & shared}


def _weights(named: dict[Node, str]) -> dict[str, Node]:
    """Layer -> its weight, of which the graph has a call."""
    return {
        name.rpartition(".")[0]: node
        for node, name in named.items()
        if name.rpartition(".")[2] == "weight" and any(_reads(call, node) for call in node.users)
    }


def _reads(call: Node, weight: Node) -> bool:
    return str(call.target).startswith(_LAYERS) and _input(call, 1) is weight


def _is_norm(node: Node) -> bool:
    return "batch_norm" in str(node.target)


def _input(node: Node, place: int) -> Node | None:
    found = node.args[place] if len(node.args) > place else None
    return found if isinstance(found, Node) else None


def _shared(net: nn.Module) -> set[str]:
    """Modules with a tensor that has another name, too; also where only training reads that."""
    tensors = [*net.named_parameters(remove_duplicate=False), *net.named_buffers(remove_duplicate=False)]
    count = Counter(id(t) for _, t in tensors)
    return {name.rpartition(".")[0] for name, t in tensors if count[id(t)] > 1}
