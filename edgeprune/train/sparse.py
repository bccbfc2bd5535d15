"""2:4 sparsity: of each four weights over the input channels two are zero, which sparse tensor cores skip.

Mishra et al. 2021 (arXiv 2104.08378): magnitudes choose once, in the trained network, and the same training again makes good
what that cost. GPUs from compute capability 8.0 on have such cores (Jetson Orin has); TensorRT takes their kernels where they
are faster than dense ones, which takes wide layers. The paper's search for better orders of channels is not made.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def layers(net: nn.Module) -> dict[str, nn.Module]:
    """Name -> convolution or linear layer whose input channels come in fours, depthwise, grouped and frozen ones left out."""
    return {
        name: m
        for name, m in net.named_modules()
        if (
            (isinstance(m, nn.Conv2d) and m.groups == 1 and m.in_channels % 4 == 0)
            or (isinstance(m, nn.Linear) and m.in_features % 4 == 0)
        )
        and m.weight.requires_grad
    }


def mask(weight: torch.Tensor) -> torch.Tensor:
    """Which weights stay: the two greatest of each four neighbours along dimension 1 (the input channels).

    Args:
        weight: (O, I, ...), I a multiple of 4.

    Returns:
        Booleans, shaped as `weight`.
    """
    fours = weight.detach().abs().unflatten(1, (-1, 4))
    stay = torch.zeros_like(fours, dtype=torch.bool).scatter_(2, fours.topk(2, dim=2).indices, True)
    return stay.flatten(1, 2)


def apply(net: nn.Module) -> Callable[[], None]:
    """Zero what does not stay; what is returned, called after each backward pass, keeps it zero.

    A weight that begins at zero and never has a gradient stays at zero under SGD and AdamW, weight decay or not.
    """
    found = [m.get_parameter("weight") for m in layers(net).values()]
    masks = [mask(w) for w in found]
    with torch.no_grad():
        for weight, stay in zip(found, masks, strict=True):
            weight.mul_(stay)

    def hold() -> None:
        for number, weight in enumerate(found):
            if weight.grad is not None:
                masks[number] = masks[number].to(weight.grad.device)  # moves once
                weight.grad.mul_(masks[number])

    return hold


def holds(net: nn.Module) -> bool:
    """Has every such layer at most two weights that are not zero in each four?"""
    return all(
        bool((m.get_parameter("weight").unflatten(1, (-1, 4)) != 0).sum(2).le(2).all()) for m in layers(net).values()
    )
