"""The views' own warp against a general one."""

import numpy as np
import pytest
import torch
from kornia.geometry.transform import warp_affine

from edgeprune.data.transforms import augmented, normalised
from edgeprune.data.warp import warped
from edgeprune.recipe.training import Augment


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


def test_a_picture_that_is_only_moved_stays_sharp():
    """CIFAR's padded crops are of whole pixels; a bilinear view of half a pixel would blur every training image."""
    rng = np.random.default_rng(0)
    image, label = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8), rng.integers(0, 5, (32, 32), dtype=np.uint8)
    cfg = Augment(scale=(1.0, 1.0), pad=4, flip=0.5, color=0.0)
    plain, seen = normalised(image[None])[0], set()
    for seed in range(12):
        view, _ = augmented(image, label, cfg, (32, 32), torch.Generator().manual_seed(seed))
        fits = [
            (flip, dy, dx)
            for flip in (False, True)
            for dy in range(-4, 5)
            for dx in range(-4, 5)
            if torch.allclose(
                (view.flip(-1) if flip else view).roll((-dy, -dx), (1, 2))[:, 4:-4, 4:-4],
                plain[:, 4:-4, 4:-4],
                atol=1e-3,
            )
        ]
        assert len(fits) == 1
        seen |= set(fits)
    assert len(seen) > 6
