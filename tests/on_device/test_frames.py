"""Frames at the engine's size: as the training's images were resized."""

import frames
import numpy as np
import pytest
from PIL import Image

NOISE = np.random.default_rng(0).integers(0, 256, (96, 160, 3), np.uint8)


@pytest.mark.parametrize("size", [(24, 40), (40, 61), (96, 80), (130, 200), (50, 300)], ids=str)
@pytest.mark.parametrize("pillow", [True, False], ids=["Pillow", "numpy"])
def test_frames_are_resized_as_the_trainings_images_were(monkeypatch, size, pillow):
    monkeypatch.setattr(frames, "has", lambda name: name == "PIL" and pillow)
    expected = np.asarray(Image.fromarray(NOISE).resize(size[::-1], Image.Resampling.BILINEAR))
    found = frames.resized(NOISE, size)
    assert found.dtype == np.uint8 and found.shape == (*size, 3)
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_a_ppm_that_ends_in_a_comment_ends(tmp_path):
    (tmp_path / "a.ppm").write_bytes(b"P6\n# never ended")
    with pytest.raises(ValueError, match="no binary PPM"):
        frames.ppm(str(tmp_path / "a.ppm"))


def test_a_frame_of_the_right_size_stays():
    assert frames.resized(NOISE, (96, 160)) is NOISE
