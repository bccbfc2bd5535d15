"""Surgery: replay a plan on a network, so that the removed channels are gone and what remains is dense again.

What a removed channel would have emitted does not vanish: "removed" means that its weights are zero while its bias or
BatchNorm beta stays, so it emits a constant, f(beta) behind an activation f. `fold_constants` moves that constant into
what follows. This is exact where every tap of the following convolution sees the channel; at a zero-padded border the
padding replaces the constant and the folded network differs there (SIRFP's released code has the same property).
Channels whose constant is not constant in space when it arrives (unpooling, zero padding by hand) are silenced instead:
their beta is zeroed too.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from edgeprune.errors import SurgeryError
from edgeprune.models.modes import evaluating
from edgeprune.prune import vanished
from edgeprune.prune.channels import ChannelGraph
from edgeprune.prune.plan import Plan, structure_hash

Example = torch.Tensor | tuple[torch.Tensor, ...]  # what a network is run on
# contrast and brightness of the noise images that constants are judged on
UNLIKE = ((1.0, 0.0), (3.0, 1.0), (0.3, -1.5))
_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def shrink(net: nn.Module, plan: Plan) -> nn.Module:
    """A copy of `net` with the plan's channels only.

    Raises:
        SurgeryError: the plan was made for another structure.
    """
    if structure_hash(net) != plan.source:
        raise SurgeryError("plan: it was made for a network of another structure (tensor names or shapes differ)")
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


def masked(net: nn.Module, graph: ChannelGraph, plan: Plan, silent: dict[str, np.ndarray] | None = None) -> nn.Module:
    """A full-width copy in which the removed units' weights and norm scales are zero, their biases and betas kept.

    Args:
        silent: group -> bool (units,): removed units whose bias and beta are zeroed as well; None silences all.
    """
    full = copy.deepcopy(net)
    quiets = []
    for g in graph.groups:
        gone = np.ones(g.size, dtype=bool)
        gone[plan.keep[g.name]] = False
        quiet = gone if silent is None else gone & silent.get(g.name, np.zeros(g.size, dtype=bool))
        quiets.append(quiet)
        if not gone.any():
            continue
        for member in g.members:
            if member.kind == "in":
                continue
            module = full.get_submodule(member.module)
            rows = torch.from_numpy(member.index[gone].ravel())
            still = torch.from_numpy(member.index[quiet].ravel())
            with torch.no_grad():
                if isinstance(module, nn.ConvTranspose2d):
                    module.weight[:, rows] = 0
                else:
                    module.weight[rows] = 0  # type: ignore[index]
                if module.bias is not None:
                    module.bias[still] = 0  # type: ignore[index]
    _still_bare_norms(full, graph, quiets)
    return full


def _still_bare_norms(full: nn.Module, graph: ChannelGraph, quiets: list[np.ndarray]) -> None:
    """A norm without a scale makes 0 of 0 only where its mean is 0, too; `quiets` are each group's silenced units."""
    for tensor, axes in graph.places.items():
        path, _, leaf = tensor.rpartition(".")
        if leaf == "running_mean" and full.get_submodule(path).weight is None:
            still = [g >= 0 and quiets[g][unit] for unit, g in zip(*axes[0], strict=True)]
            full.get_buffer(tensor)[torch.tensor(still)] = 0


def silent_units(net: nn.Module, graph: ChannelGraph, plan: Plan, example: Example) -> dict[str, np.ndarray]:
    """Removed units that cannot be folded: what they emit is not one constant where a weight reads it.

    Found by running the masked network on noise and looking, so it holds for any operator in between.
    """
    silent = {g.name: np.zeros(g.size, dtype=bool) for g in graph.groups}
    for _ in range(len(graph.groups) + 1):
        readings = _read_constants(masked(net, graph, plan, silent), graph, plan, example)
        found = False
        for g in graph.groups:
            for member in g.members:
                if member.kind != "in" or member.module not in readings:
                    continue
                values, constant = readings[member.module]
                if isinstance(net.get_submodule(member.module), nn.ConvTranspose2d):
                    constant = constant & (np.abs(values) == 0)  # its output is not constant for a constant input
                table = constant[_blocked(net, member.module, member.index)]
                bad: np.ndarray = np.logical_not(table if table.ndim == 1 else table.all(axis=1))
                bad[plan.keep[g.name]] = False
                if (bad & ~silent[g.name]).any():
                    silent[g.name] |= bad
                    found = True
        if not found:
            return silent
    return silent


def _blocked(net: nn.Module, module: str, index: np.ndarray) -> np.ndarray:
    """Weight-axis positions of a grouped convolution stand for one channel in each of its groups; the rest as is."""
    layer = net.get_submodule(module)
    groups = getattr(layer, "groups", 1)
    if groups == 1 or not isinstance(layer, (nn.Conv1d, nn.Conv2d)):
        return index
    width = layer.in_channels // groups
    return (index.reshape(len(index), -1, 1) + width * np.arange(groups)).reshape(len(index), -1)


def _read_constants(
    full: nn.Module, graph: ChannelGraph, plan: Plan, example: Example
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """module -> (mean value, is it one constant) of every input channel, over all positions of images of unlike brightness and
    contrast: what a gate makes of one image is flat in space, and another of the next."""
    readers = {m.module for g in graph.groups for m in g.members if m.kind == "in"}
    low: dict[str, torch.Tensor] = {}
    high: dict[str, torch.Tensor] = {}

    def watch(name: str):
        def hook(module: nn.Module, args: tuple[torch.Tensor, ...], named: dict[str, torch.Tensor]) -> None:
            x = (args[0] if args else named["input"]).detach()
            axis = x.ndim - 1 if isinstance(module, nn.Linear) else 1
            flat = x.movedim(axis, 0).flatten(1)
            a, b = flat.amin(1), flat.amax(1)
            low[name] = torch.minimum(low[name], a) if name in low else a
            high[name] = torch.maximum(high[name], b) if name in high else b

        return hook

    hooks = [full.get_submodule(n).register_forward_pre_hook(watch(n), with_kwargs=True) for n in readers]
    inputs = (example,) if isinstance(example, torch.Tensor) else example
    with evaluating(full), torch.no_grad():
        for contrast, brightness in UNLIKE:
            full(*[contrast * torch.randn_like(x) + brightness for x in inputs])
    for h in hooks:
        h.remove()
    result = {}
    for name, a in low.items():
        spread = high[name] - a
        scale = torch.maximum(a.abs(), high[name].abs()).clamp_min(1e-3)
        result[name] = (((a + high[name]) / 2).cpu().numpy(), (spread <= 1e-4 * scale).cpu().numpy())
    return result


def fold_constants(net: nn.Module, graph: ChannelGraph, plan: Plan, example: Example) -> tuple[nn.Module, nn.Module]:
    """Shrink `net` with the removed channels' constants folded into what reads them.

    Returns:
        (small, full): the shrunk network, and the masked full-width one that it equals away from padded borders.
    """
    silent = silent_units(net, graph, plan, example)
    full = masked(net, graph, plan, silent)
    readings = _read_constants(full, graph, plan, example)
    prepared = copy.deepcopy(full)
    for name, (values, _) in readings.items():
        layer = prepared.get_submodule(name)
        gone = removed_inputs(net, graph, plan, name)
        if isinstance(layer, nn.ConvTranspose2d) or not gone.any():
            continue
        constant = torch.from_numpy(np.where(gone, values, 0.0)).to(layer.weight)  # type: ignore[arg-type]
        with torch.no_grad():
            shift = response(layer, constant)
            if float(shift.abs().max()) == 0:
                continue
            if not absorb(prepared, graph, name, shift):
                layer.bias = nn.Parameter(shift.clone())
    return _shrink_prepared(prepared, plan), full


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
    """Add `shift` (out,) to what a layer emits, in its bias or in the norm that alone reads it; False where there is neither."""
    layer = net.get_submodule(name)
    norm = net.get_submodule(graph.norm_behind[name]) if name in graph.norm_behind else None
    if layer.bias is not None:
        layer.bias += shift  # type: ignore[operator]
    elif isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None:
        norm.running_mean -= shift
    else:
        return False
    return True


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
