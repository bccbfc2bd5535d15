"""Regions of a captured graph that only say how they are run (no_grad, autocast, checkpoint), opened into the graph around them."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

# higher-order operators of torch that call one subgraph with the arguments behind it
_WRAPPERS = {
    "wrap",
    "wrap_activation_checkpoint",
    "wrap_with_autocast",
    "wrap_with_set_grad_enabled",
    "tag_activation_checkpoint",
    "invoke_subgraph",
}


def open_regions(graph_module: GraphModule) -> None:
    """Put the nodes of every such region in the place of the call, in regions within regions, too (in place)."""
    for node in list(graph_module.graph.nodes):
        if node.op == "call_function" and getattr(node.target, "__name__", "") in _WRAPPERS:
            _open(graph_module, node)


def _open(graph_module: GraphModule, call: Node) -> None:
    regions = [a for a in call.args if isinstance(a, Node) and a.op == "get_attr"]
    inner = graph_module.get_submodule(str(regions[0].target)) if len(regions) == 1 else None
    if not isinstance(inner, GraphModule):
        return
    open_regions(inner)
    operands = [a for a in call.args[call.args.index(regions[0]) + 1 :] if not isinstance(a, str)]
    given = iter(operands)
    made: dict[Node, Any] = {}
    results: Any = ()
    with graph_module.graph.inserting_before(call):
        for node in inner.graph.nodes:
            if node.op == "placeholder":
                made[node] = next(given)
            elif node.op == "output":
                results = torch.fx.map_arg(node.args[0], lambda n: made[n])
            else:
                made[node] = graph_module.graph.node_copy(node, lambda n: made[n])
    for user in list(call.users):
        if str(user.target) == "<built-in function getitem>":
            user.replace_all_uses_with(results[user.args[1]])
            graph_module.graph.erase_node(user)
    if isinstance(results, Node):
        call.replace_all_uses_with(results)
    if not call.users:
        graph_module.graph.erase_node(call)
