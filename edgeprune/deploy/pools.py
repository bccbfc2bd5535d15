"""Average pooling as every engine reads it, for the graph that ships: adaptive pools by slices, means as pools.

Where the bins do not divide the map, PyTorch's exporter gathers every bin's window: copies of the whole map, by operators
that engines run slowly or not at all. The mean over a rectangle is the mean over its rows of the means over its columns, so
slices, means and joins do, and the map is read once.

From opset 18 on the axes of a mean are an input of the node. The parser of TensorRT 8 (JetPack 5.1, 6.0) looks for the
attribute that they were before, finds none and reduces over all axes, silently (NVIDIA/TensorRT#3467); it reads pools.
"""

from __future__ import annotations

import copy

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import nn


class SplitPool(nn.Module):
    """`nn.AdaptiveAvgPool2d(bins)` of (B, C, H, W), bins (rows, columns)."""

    def __init__(self, bins: tuple[int, int]) -> None:
        super().__init__()
        self.bins = bins

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if all(side % n == 0 for side, n in zip(x.shape[-2:], self.bins, strict=True)):
            return F.adaptive_avg_pool2d(x, self.bins)
        return _means(_means(x, 2, self.bins[0]), 3, self.bins[1])


def _means(x: torch.Tensor, axis: int, bins: int) -> torch.Tensor:
    side = x.shape[axis]
    bounds = [(i * side // bins, -(-(i + 1) * side // bins)) for i in range(bins)]
    parts = [x.narrow(axis, start, end - start).mean(dim=axis, keepdim=True) for start, end in bounds]
    return torch.cat(parts, dim=axis)


def with_split_pools(net: nn.Module) -> nn.Module:
    """A copy of `net` whose adaptive average pools are `SplitPool`s; `net` itself where it has none of several bins."""
    found = {name: bins for name, m in net.named_modules() if (bins := _bins(m)) is not None}
    if not found:
        return net
    plain = copy.deepcopy(net)
    for name, bins in found.items():
        parent, _, leaf = name.rpartition(".")
        setattr(plain.get_submodule(parent), leaf, SplitPool(bins))
    return plain


def with_pooled_means(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its means over rows, columns or both of a (B, C, H, W) tensor as average pools, which are the same.

    Means over other axes stay: the device's scripts refuse them where they would be misread.
    """
    graph, make, nodes = model.graph, onnx.helper.make_node, []
    whole = [i for i in graph.initializer if i.data_type == onnx.TensorProto.INT64]
    axes_of = {i.name: onnx.numpy_helper.to_array(i) for i in whole}
    told = onnx.shape_inference.infer_shapes(model).graph
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*told.value_info, *told.input)}
    for node in graph.node:
        source, axes = ([*node.input] + [""])[:2]
        shape, over = shapes.get(source, []), {int(axis) % 4 for axis in axes_of.get(axes, np.empty(0)).flat}
        if node.op_type != "ReduceMean" or len(shape) != 4 or not over or not over <= {2, 3} or 0 in shape[2:]:
            nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
            continue
        keep = all(a.i for a in node.attribute if a.name == "keepdims")
        pooled = node.output[0] if keep else f"{node.output[0]}_pooled"
        if over == {2, 3}:
            nodes.append(make("GlobalAveragePool", [source], [pooled], name=node.name))
        else:
            kernel = [shape[axis] if axis in over else 1 for axis in (2, 3)]
            nodes.append(make("AveragePool", [source], [pooled], name=node.name, kernel_shape=kernel))
        if not keep:
            nodes.append(make("Squeeze", [pooled, axes], [node.output[0]], name=f"{node.name}_squeezed"))
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    for unused in [i for i in whole if i.name not in used]:
        graph.initializer.remove(unused)
    return model


def _bins(module: nn.Module) -> tuple[int, int] | None:
    if not isinstance(module, nn.AdaptiveAvgPool2d):
        return None
    size = module.output_size
    rows, columns = (size, size) if isinstance(size, int) else size or (None, None)
    return (rows, columns) if rows and columns and max(rows, columns) > 1 else None
