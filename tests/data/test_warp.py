"""The views' own warp against a general one."""

import pytest
import torch
from kornia.geometry.transform import warp_affine

from edgeprune.data.warp import warped


@pytest.mark.parametrize("crop", [(44, 60), (30, 71), (1, 1)])
@pytest.mark.parametrize(
    "scale, shift", [((1.0, 1.0), (0.0, 0.0)), ((0.5, 0.5), (11.3, -3.4)), ((-1.7, 1.7), (59.0, 20.0))]
)
def test_it_is_the_general_warp(scale, shift, crop):
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand(2, 3, 44, 60, generator=generator)
    mask = torch.randint(0, 12, (2, 1, 44, 60), generator=generator).float()
    matrix = torch.tensor([[[scale[0], 0.0, shift[0]], [0.0, scale[1], shift[1]]]])
    both = matrix.expand(2, -1, -1)
    known = {"padding_mode": "zeros", "align_corners": True}
    if min(crop) > 1:  # the general one divides by the view's size less one
        torch.testing.assert_close(
            warped(picture, matrix, crop, "bilinear"),
            warp_affine(picture, both, crop, mode="bilinear", **known),
            atol=2e-4,
            rtol=0,
        )
        differ = warped(mask, matrix, crop, "nearest") != warp_affine(mask, both, crop, mode="nearest", **known)
        assert differ.float().mean() < 0.01, "but for pixels that lie half way"
    else:
        assert warped(picture, matrix, crop, "bilinear").isfinite().all()
    if scale == (1.0, 1.0) and crop == (44, 60):
        torch.testing.assert_close(warped(picture, matrix, crop, "bilinear"), picture, atol=1e-5, rtol=0)
