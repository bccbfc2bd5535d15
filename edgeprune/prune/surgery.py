"""Surgery: replay a plan on a network, so that the removed channels are gone and what remains is dense again.

What a removed channel would have emitted does not vanish: "removed" means that its weights are zero while its bias or
BatchNorm beta stays, so it emits a constant, f(beta) behind an activation f. `fold_constants` moves that constant into
what follows. This is exact where every tap of the following convolution sees the channel; at a padded border the
padding replaces the constant and the folded network differs there (SIRFP's released code has the same property).
What is not constant when it arrives (unpooled, or times a gate) or finds no bias that could take it (behind a transposed
convolution, or a weight of two layers) is not read any more.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from edgeprune.errors import SurgeryError
from edgeprune.prune import vanished
from edgeprune.prune.channels import ChannelGraph, Member
from edgeprune.prune.plan import Plan, structure_hash
from edgeprune.prune.readings import Example, Reading, read

_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def check_structure(net: nn.Module, plan: Plan) -> None:
    """The tensors of `net` have the names and shapes that the plan was made for.

    Raises:
        SurgeryError: they have not.
    """
    if structure_hash(net) != plan.source:
        raise SurgeryError("plan: it was made for a network of another structure (tensor names or shapes differ)")


def shrink(net: nn.Module, plan: Plan) -> nn.Module:
    """A copy of `net` with the plan's channels only.

    Raises:
        SurgeryError: the plan was made for another structure.
    """
    check_structure(net, plan)
    small = copy.deepcopy(net)
    owners: dict[int, list[tuple[nn.Module, str]]] = {}  # a tied parameter has several owners
    for module in small.modules():
        for leaf, p in [*module._parameters.items(), *module._buffers.items()]:
            if p is not None:
                owners.setdefault(id(p), []).append((module, leaf))
    done: dict[int, list[int] | None] = {}  # new parameter -> the rows that it kept
    for name, axes in plan.tensors.items():
        path, _, leaf = name.rpartition(".")
        old = getattr(small.get_submodule(path), leaf)
        if id(old) in done:
            continue
        new = old.detach()
        for axis, kept in axes.items():
            new = new.index_select(axis, torch.tensor(kept, dtype=torch.long, device=new.device))
        new = new.clone()
        made = nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new
        for module, attribute in owners[id(old)]:
            setattr(module, attribute, made)
        done[id(made)] = axes.get(0)
    for name, module in list(small.named_modules()):
        _resize(module, done.get(id(getattr(module, "weight", None))))
        if (left := vanished.stand_in(module)) is not None:
            parent, _, leaf = name.rpartition(".")
            setattr(small.get_submodule(parent), leaf, left)
    return small


def _resize(module: nn.Module, rows: list[int] | None) -> None:
    """Make the numbers that a module keeps about itself agree with its tensors; `rows` are those that its weight has kept."""
    if isinstance(module, nn.ConvTranspose2d):
        module.in_channels, module.out_channels = module.weight.shape[0], module.weight.shape[1] * module.groups
    elif isinstance(module, (nn.Conv1d, nn.Conv2d)):
        # of a depthwise one, channels go with all that they make; else a part of each group's
        if rows is not None and module.groups > 1:
            module.groups = len({row // (module.out_channels // module.groups) for row in rows})
        module.out_channels = module.weight.shape[0]
        module.in_channels = module.weight.shape[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        for tensor in (module.weight, module.running_mean):
            if tensor is not None:
                module.num_features = tensor.shape[0]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = module.weight.shape[0]


def emptied(net: nn.Module, graph: ChannelGraph, plan: Plan) -> nn.Module:
    """A full-width copy in which the removed units' weights and norm scales are zero, their biases and betas kept."""
    full = copy.deepcopy(net)
    for member, rows in _removed(graph, plan):
        if member.kind == "in" or not len(rows):
            continue
        module = full.get_submodule(member.module)
        with torch.no_grad():
            if isinstance(module, nn.ConvTranspose2d):
                module.weight[:, rows.ravel()] = 0
            else:
                module.weight[rows.ravel()] = 0  # type: ignore[index]
    return full


def unread(net: nn.Module, graph: ChannelGraph, plan: Plan) -> nn.Module:
    """A full-width copy in which nothing reads the removed units, whatever they emit."""
    full = copy.deepcopy(net)
    for member, rows in _removed(graph, plan):
        if member.kind == "in":
            _ignore(full.get_submodule(member.module), rows)
    return full


def _removed(graph: ChannelGraph, plan: Plan) -> Iterator[tuple[Member, np.ndarray]]:
    """Every member, and its rows of the units that go."""
    for g in graph.groups:
        gone = np.ones(g.size, dtype=bool)
        gone[plan.keep[g.name]] = False
        for member in g.members:
            yield member, member.index[gone]


def _ignore(layer: nn.Module, inputs: np.ndarray) -> None:
    """Take positions out of what a layer reads."""
    with torch.no_grad():
        if isinstance(layer, nn.ConvTranspose2d):
            layer.weight[inputs.ravel()] = 0
        else:
            layer.weight[:, inputs.ravel()] = 0  # type: ignore[index]


def _blocked(net: nn.Module, module: str, index: np.ndarray) -> np.ndarray:
    """Weight-axis positions of a grouped convolution stand for one channel in each of its groups; the rest as is."""
    layer = net.get_submodule(module)
    groups = getattr(layer, "groups", 1)
    if groups == 1 or not isinstance(layer, (nn.Conv1d, nn.Conv2d)):
        return index
    width = layer.in_channels // groups
    return (index.reshape(len(index), -1, 1) + width * np.arange(groups)).reshape(len(index), -1)


def fold_constants(net: nn.Module, graph: ChannelGraph, plan: Plan, example: Example) -> tuple[nn.Module, nn.Module]:
    """Shrink `net` with the removed channels' constants folded into what reads them.

    Returns:
        (small, full): the shrunk network, and the masked full-width one that it equals away from padded borders.
    """
    full = emptied(net, graph, plan)
    readings = read(full, graph, example)
    folded: list[tuple[str, np.ndarray]] = []
    changed, owners = False, Counter(id(p) for m in net.modules() for p in m._parameters.values())
    for member, rows in _removed(graph, plan):
        if member.kind != "in" or not len(rows):
            continue
        channels = _blocked(net, member.module, rows).reshape(len(rows), -1)
        folds = np.zeros(len(rows), dtype=bool)
        if (reading := readings.get(member.module)) is not None:
            layer = net.get_submodule(member.module)
            if owners[id(layer.weight)] == 1 and _takes(net, graph, member.module, reading):
                folds = reading.constant[channels].all(axis=1)
            changed |= bool((reading.value[channels[~folds]] != 0).any())
        _ignore(full.get_submodule(member.module), rows[~folds])
        folded.append((member.module, channels[folds].ravel()))
    if changed:  # a gate may now be another constant
        readings = read(full, graph, example)
    constants: dict[str, np.ndarray] = {}
    for name, channels in folded:
        if len(channels):
            constant = constants.setdefault(name, np.zeros_like(readings[name].value))
            constant[channels] = readings[name].value[channels]
    prepared = copy.deepcopy(full)
    for name, constant in constants.items():
        layer = prepared.get_submodule(name)
        with torch.no_grad():
            shift = response(layer, torch.from_numpy(constant).to(layer.weight))  # type: ignore[arg-type]
            if float(shift.abs().max()) and not absorb(prepared, graph, name, shift):
                layer.bias = nn.Parameter(shift.clone())
    return _shrink_prepared(prepared, plan), full


def _takes(net: nn.Module, graph: ChannelGraph, name: str, reading: Reading) -> bool:
    """Is there a place for what a constant adds to a layer's output, or can a bias be made?"""
    layer = net.get_submodule(name)
    if isinstance(layer, nn.ConvTranspose2d):
        return False  # its answer to a constant is none
    return _taker(net, graph, name) is not None or (layer.bias is None and reading.own)


def _shrink_prepared(prepared: nn.Module, plan: Plan) -> nn.Module:
    """Shrink a network whose biases may have been added by folding."""
    axes = dict(plan.tensors)
    for name, module in prepared.named_modules():
        weight = f"{name}.weight"
        if isinstance(module, _WEIGHTED) and module.bias is not None and weight in axes and f"{name}.bias" not in axes:
            axis = 1 if isinstance(module, nn.ConvTranspose2d) else 0
            if axis in axes[weight]:
                axes[f"{name}.bias"] = {0: axes[weight][axis]}
    return shrink(prepared, Plan(plan.keep, plan.sizes, axes, structure_hash(prepared)))


def absorb(net: nn.Module, graph: ChannelGraph, name: str, shift: torch.Tensor) -> bool:
    """Add `shift` (out,) to what a layer emits, and to nothing else: in its bias or in the norm that alone reads it; False where
    there is neither, or it is not this layer's alone."""
    if (taker := _taker(net, graph, name)) is None:
        return False
    tensor, sign = taker
    tensor += sign * shift
    return True


def _taker(net: nn.Module, graph: ChannelGraph, name: str) -> tuple[torch.Tensor, int] | None:
    """What takes a constant that is added to a layer's output, and with which sign: its bias, or the running mean of the norm behind."""
    if name in graph.biased:
        return net.get_submodule(name).bias, 1  # type: ignore[return-value]
    norm = net.get_submodule(graph.norm_behind[name]) if name in graph.norm_behind else None
    return (norm.running_mean, -1) if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None else None


def response(layer: nn.Module, constant: torch.Tensor) -> torch.Tensor:
    """What `constant` (in,) adds to each output channel of a convolution or linear layer, away from borders."""
    weight = layer.weight
    if isinstance(layer, nn.Linear):
        return weight @ constant  # type: ignore[operator]
    taps = weight.flatten(2).sum(2)  # type: ignore[union-attr]  # (out, in / groups)
    groups = int(layer.groups)  # type: ignore[arg-type]
    return (taps.view(groups, -1, taps.shape[1]) * constant.view(groups, 1, -1)).sum(2).flatten()


def removed_inputs(net: nn.Module, graph: ChannelGraph, plan: Plan, module: str) -> np.ndarray:
    layer = net.get_submodule(module)
    size = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    gone = np.zeros(int(size), dtype=bool)  # type: ignore[arg-type]
    for g in graph.groups:
        out = np.ones(g.size, dtype=bool)
        out[plan.keep[g.name]] = False
        for member in g.members:
            if member.kind == "in" and member.module == module:
                gone[_blocked(net, module, member.index)[out].ravel()] = True
    return gone
