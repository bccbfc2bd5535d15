"""Weights that a trainer keeps in pieces, put together as its own network computes them: exactly, or not at all.

torch.nn.utils.prune (`weight_orig`, `weight_mask`), weight_norm (`weight_g`, `weight_v`) and spectral_norm (`weight_orig`, `weight_u`,
`weight_v`), each also as torch.nn.utils.parametrizations keeps it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

Tensors = dict[str, torch.Tensor]
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class _Kind:
    """Weights in pieces.

    Attributes:
        ends: of the pieces' names, behind the weight's.
        inside: the pieces' names below "parametrizations.<weight>."; none where torch has no such form.
        make: of the pieces and the layer's output axis makes the weight; None where they do not belong together.
        told: what was done, in words.
    """

    ends: tuple[str, ...]
    inside: tuple[str, ...]
    make: Callable[[list[torch.Tensor], int], torch.Tensor | None]
    told: str


def folded(tensors: Tensors, net: nn.Module) -> tuple[Tensors, dict[str, str]]:
    """The tensors with whole weights, and how each that was in pieces was made: {name: what was done}.

    Pieces that the network itself has (`net` is masked or normalised too), and those of an unknown kind, stay as they are.
    """
    pieces = _pieces(tensors)
    if not pieces:
        return tensors, {}
    wanted, layers, whole, told = set(net.state_dict()), dict(net.named_modules()), dict(tensors), {}
    for name, names, kind in pieces:
        if wanted & set(names) or not all(_plain(tensors[n]) for n in names):
            continue
        axis = 1 if isinstance(layers.get(name.rpartition(".")[0]), _TRANSPOSED) else 0
        value = kind.make([tensors[n] for n in names], axis)
        if value is not None:
            whole = {k: v for k, v in whole.items() if k not in names}
            whole[name], told[name] = value, kind.told
    return whole, told


def _pieces(tensors: Tensors) -> list[tuple[str, list[str], _Kind]]:
    """Each weight's name, its pieces' names, and their kind."""
    found: list[tuple[str, list[str], _Kind]] = []
    for key in tensors:
        for kind in _KINDS:
            name = key.removesuffix(kind.ends[0])
            names = [name + end for end in kind.ends]
            if name != key and all(n in tensors for n in names):
                found.append((name, names, kind))
        home, _, last = key.rpartition(".")
        owner, below, weight = home.rpartition("parametrizations.")
        for kind in _KINDS if below and "." not in weight else ():
            if last in kind.inside[:1] and {k for k in tensors if k.startswith(home + ".")} == {
                f"{home}.{piece}" for piece in kind.inside
            }:
                found.append((owner + weight, [f"{home}.{piece}" for piece in kind.inside], kind))
    return found


def _plain(value: torch.Tensor) -> bool:
    odd = value.is_quantized or value.is_meta or value.is_nested or value.is_complex()
    return value.layout == torch.strided and not odd


def _masked(pieces: list[torch.Tensor], axis: int) -> torch.Tensor | None:
    weight, mask = pieces
    return weight * mask.to(weight.dtype) if weight.is_floating_point() and weight.shape == mask.shape else None


def _weight_norm(pieces: list[torch.Tensor], axis: int) -> torch.Tensor | None:
    """g * v / |v|, the norm over all axes but that along which g runs (Salimans and Kingma, arXiv 1602.07868, eq. 2)."""
    g, v = pieces
    if not (g.is_floating_point() and v.is_floating_point()):
        return None
    if g.ndim == 0:
        return v * (g / v.norm())
    if g.ndim != v.ndim or any(a not in (1, b) for a, b in zip(g.shape, v.shape, strict=True)):
        return None
    along = next((i for i, a in enumerate(g.shape) if a > 1), 0)
    return v * (g / torch.norm_except_dim(v, 2, along))


def _spectral(pieces: list[torch.Tensor], axis: int) -> torch.Tensor | None:
    """W / (u^T W v), as in evaluation: without a step of the power iteration (Miyato et al., arXiv 1802.05957)."""
    weight, u, v = pieces
    matrix = weight.movedim(axis, 0).flatten(1) if weight.ndim > 1 else weight[:, None]
    if matrix.shape != (u.numel(), v.numel()) or not weight.dtype == u.dtype == v.dtype:
        return None
    return weight / torch.dot(u.flatten(), torch.mv(matrix, v.flatten()))


_KINDS = (
    _Kind(("_orig", "_mask"), (), _masked, "pruning mask applied"),
    _Kind(("_orig", "_u", "_v"), ("original", "0._u", "0._v"), _spectral, "spectral norm folded"),
    _Kind(("_g", "_v"), ("original0", "original1"), _weight_norm, "weight norm folded"),
)
