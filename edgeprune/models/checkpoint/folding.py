"""Weights that a trainer keeps in pieces, put together as its own network computes them: exactly, or not at all.

torch.nn.utils.prune (`weight_orig`, `weight_mask`), weight_norm (`weight_g`, `weight_v`) and spectral_norm (`weight_orig`, `weight_u`,
`weight_v`), each also as torch.nn.utils.parametrizations keeps it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

Tensors = dict[str, torch.Tensor]
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def folded(tensors: Tensors, net: nn.Module) -> tuple[Tensors, dict[str, str]]:
    """The tensors with whole weights, and how each that was in pieces was made: {name: what was done}.

    Pieces that the network itself has (`net` is masked or normalised too), and those of an unknown kind, stay as they are.
    """
    wanted, whole, told = set(net.state_dict()), dict(tensors), {}
    for names, name, make, what in _pieces(tensors):
        if wanted & set(names) or not all(_plain(tensors[n]) for n in names):
            continue
        owner = name.rpartition(".")[0]
        axis = 1 if isinstance(dict(net.named_modules()).get(owner), _TRANSPOSED) else 0
        value = make([tensors[n] for n in names], axis)
        if value is not None:
            whole = {k: v for k, v in whole.items() if k not in names}
            whole[name], told[name] = value, what
    return whole, told


_Make = Callable[[list[torch.Tensor], int], torch.Tensor | None]


def _pieces(tensors: Tensors) -> list[tuple[list[str], str, _Make, str]]:
    """The pieces' names, the whole's name, how it is made, and in words."""
    found: list[tuple[list[str], str, _Make, str]] = []
    kinds: list[tuple[list[str], _Make, str]] = [
        (["_orig", "_mask"], _masked, "pruning mask applied"),
        (["_orig", "_u", "_v"], _spectral, "spectral norm folded"),
        (["_g", "_v"], _weight_norm, "weight norm folded"),
    ]
    for key in tensors:
        for ends, make, what in kinds:
            names = [key.removesuffix(ends[0]) + end for end in ends]
            if key.endswith(ends[0]) and all(n in tensors for n in names):
                found.append((names, key.removesuffix(ends[0]), make, what))
        home, dot, last = key.rpartition(".")
        owner, _, name = home.rpartition("parametrizations.")
        if not dot or "parametrizations." not in key or "." in name:
            continue
        inside = {k.removeprefix(home + ".") for k in tensors if k.startswith(home + ".")}
        if last == "original0" and inside == {"original0", "original1"}:
            found.append(([f"{home}.{n}" for n in ("original0", "original1")], owner + name, _weight_norm, kinds[2][2]))
        if last == "original" and inside == {"original", "0._u", "0._v"}:
            names = [f"{home}.{n}" for n in ("original", "0._u", "0._v")]
            found.append((names, owner + name, _spectral, kinds[1][2]))
    return found


def _plain(value: torch.Tensor) -> bool:
    return value.layout == torch.strided and not value.is_quantized and not value.is_meta and value.is_floating_point()


def _masked(pieces: list[torch.Tensor], axis: int) -> torch.Tensor | None:
    weight, mask = pieces
    return weight * mask.to(weight.dtype) if weight.shape == mask.shape else None


def _weight_norm(pieces: list[torch.Tensor], axis: int) -> torch.Tensor | None:
    """g * v / |v|, the norm over all axes but that along which g runs (Salimans and Kingma, arXiv 1602.07868, eq. 2)."""
    g, v = pieces
    if g.ndim == 0:
        return v * (g / v.norm())
    if g.ndim != v.ndim or any(a not in (1, b) for a, b in zip(g.shape, v.shape, strict=True)):
        return None
    along = next((i for i, a in enumerate(g.shape) if a > 1), 0)
    return v * (g / torch.norm_except_dim(v, 2, along))


def _spectral(pieces: list[torch.Tensor], axis: int) -> torch.Tensor | None:
    """W / (u^T W v), as in evaluation: without a step of the power iteration (Miyato et al., arXiv 1802.05957)."""
    weight, u, v = pieces
    matrix = weight.movedim(axis, 0).flatten(1) if weight.ndim > axis + 1 or weight.ndim > 1 else weight[:, None]
    if matrix.shape != (u.numel(), v.numel()):
        return None
    return weight / torch.dot(u.flatten(), torch.mv(matrix, v.flatten()))
