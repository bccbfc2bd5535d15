"""From images and labels to what a network sees; image and label move together. Colours by kornia."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import torch

from edgeprune.data.labels import moved_mask
from edgeprune.data.warp import warped


class Normalisation(NamedTuple):
    """What is taken off red, green and blue, and what they are divided by; of values 0 to 1. The default: ImageNet's."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


IMAGENET = Normalisation()


class Augment(Protocol):
    """`recipe.Augment`."""

    @property
    def scale(self) -> tuple[float, float]: ...
    @property
    def pad(self) -> int: ...
    @property
    def flip(self) -> float: ...
    @property
    def color(self) -> float: ...


def normalised(images: np.ndarray, by: Normalisation = IMAGENET) -> torch.Tensor:
    """(B, H, W, 3) uint8, red first, to (B, 3, H, W) float32 as the network sees them."""
    return _normal(torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255, by)


def _normal(x: torch.Tensor, by: Normalisation) -> torch.Tensor:
    return (x - torch.tensor(by.mean).view(1, 3, 1, 1)) / torch.tensor(by.std).view(1, 3, 1, 1)


def augmented(
    image: np.ndarray,
    label: np.ndarray,
    cfg: Augment,
    crop: tuple[int, int],
    generator: torch.Generator,
    at: tuple[int, int] | None = None,
    move: Callable[[np.ndarray, torch.Tensor, tuple[int, int]], torch.Tensor] = moved_mask,
    by: Normalisation = IMAGENET,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A random view: (3, h, w) float32 normalised, and the label that `move` makes of it (`labels.Kind`).

    The crop lies anywhere, or so that the image's pixel `at` (y, x) is in its middle half, as far as the image's edges allow.
    Colours change first; then one warp scales, crops and flips. What lies outside the image is mean grey and not judged.
    Deterministic in `generator`.
    """
    x = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
    x = _normal(_recolored(x, cfg.color, generator), by)
    matrix = _view(image.shape[:2], crop, cfg, generator, at)
    return warped(x, matrix, crop, "bilinear")[0], move(label, matrix, crop)


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _view(
    size: tuple[int, ...],
    crop: tuple[int, int],
    cfg: Augment,
    generator: torch.Generator,
    at: tuple[int, int] | None = None,
) -> torch.Tensor:
    """(1, 2, 3) matrix from the image's pixels to the crop's."""
    scale = float(np.exp(_uniform(np.log(cfg.scale[0]), np.log(cfg.scale[1]), generator)))
    shifts = []
    for axis, (have, want) in enumerate(zip(size, crop, strict=True)):
        room = (
            want - 1 - scale * (have - 1)
        )  # negative: the crop is a part of the image; else the image lies in the crop
        least, most = min(room, 0) - cfg.pad, max(room, 0) + cfg.pad
        if at is None:
            shifts.append(_uniform(least, most, generator))
        else:
            place = want * _uniform(0.25, 0.75, generator)
            shifts.append(float(np.clip(place - scale * at[axis], least, most)))
    if scale == 1:  # whole pixels: images that are only moved stay as sharp as those that are judged
        shifts = [float(round(shift)) for shift in shifts]
    matrix = torch.tensor([[[scale, 0.0, shifts[1]], [0.0, scale, shifts[0]]]])
    if _uniform(0, 1, generator) < cfg.flip:
        matrix[0, 0] = torch.tensor([0.0, 0.0, crop[1] - 1.0]) - matrix[0, 0]
    return matrix


def _recolored(x: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    """Brightness, contrast and saturation, each times 1 +- strength."""
    if not strength:
        return x
    from kornia import enhance

    b, c, s = (_uniform(1 - strength, 1 + strength, generator) for _ in range(3))
    x = enhance.adjust_contrast_with_mean_subtraction(x * b, c)
    return enhance.adjust_saturation_with_gray_subtraction(x, s).clamp(0, 1)
