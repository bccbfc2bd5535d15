"""Scale, shift and flip a picture or a mask: what a view of `transforms` does to both."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def warped(x: torch.Tensor, matrix: torch.Tensor, crop: tuple[int, int], mode: str) -> torch.Tensor:
    """(B, C, H, W) to (B, C, h, w) of `crop`, zeros where the view shows nothing of it.

    Without rotation rows and columns are apart; a library's general warp, which inverts and normalises 3x3 matrices, takes
    four times as long, and was most of a training batch.

    Args:
        matrix: (1, 2, 3) from the picture's pixel centres to the view's; scales, shifts and flips only.
        mode: "bilinear" or "nearest".
    """
    grid = torch.empty(1, *crop, 2)
    for axis, (have, want) in enumerate(zip(x.shape[:1:-1], crop[::-1], strict=True)):  # x, then y
        scale, shift = float(matrix[0, axis, axis]), float(matrix[0, axis, 2])
        at = (torch.arange(want, dtype=torch.float64) - shift) / scale * (2 / max(1, have - 1)) - 1
        grid[..., axis] = at if axis == 0 else at[:, None]
    return F.grid_sample(x, grid.expand(len(x), -1, -1, -1), mode=mode, padding_mode="zeros", align_corners=True)
