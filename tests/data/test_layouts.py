"""The data sets' official layouts: tiny trees, and what goes wrong with real ones."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from edgeprune.data import DATASETS, IGNORE, open_dataset
from edgeprune.data.ade20k import PALETTE as ADE_PALETTE
from edgeprune.data.palettes import voc_colors
from edgeprune.errors import DataError
from edgeprune.recipe import Data
from tests.data import trees

SIZE = (6, 8)


def first_row(name: str, root: Path, split: str = "train", index: int = 0, **args) -> tuple[list, np.ndarray]:
    """The classes that the first pixels mean (None = ignored), and the whole label."""
    data = open_dataset(name, str(root), split, SIZE, **args)
    label = data[index][1]
    return [None if v == IGNORE else data.classes[v] for v in label[0, :4]], label


def test_the_recipe_knows_every_data_set():
    assert set(get_args(Data.model_fields["name"].annotation)) == set(DATASETS)


@pytest.mark.parametrize(
    ("name", "make", "count", "last"),
    [
        ("voc2012", trees.voc, 21, "tvmonitor"),
        ("ade20k", trees.ade, 150, "flag"),
        ("cocostuff10k", lambda r: trees.cocostuff(r, "mat"), 171, "wood"),
        ("pascal_context", trees.context, 59, "wood"),
        ("cityscapes", trees.cityscapes, 19, "bicycle"),
    ],
)
def test_classes_and_colours(tmp_path, name, make, count, last):
    make(tmp_path)
    for split in ("train", "val"):
        data = open_dataset(name, str(tmp_path), split, SIZE)
        assert len(data.classes) == len(set(data.classes)) == len(data.palette) == count
        assert data.classes[-1] == last and data[0][0].shape == (*SIZE, 3)
        assert all(0 <= v <= 255 for color in data.palette for v in color)
        np.testing.assert_array_equal(data.label(0), data[0][1])


def test_official_colours():
    assert voc_colors(21)[:3] == [(0, 0, 0), (128, 0, 0), (0, 128, 0)] and voc_colors(256)[255] == (224, 224, 192)
    assert voc_colors(21)[15] == (192, 128, 128)  # person
    assert ADE_PALETTE[0] == (120, 120, 120) and ADE_PALETTE[2] == (6, 230, 230) and ADE_PALETTE[149] == (92, 0, 255)


def test_voc_reads_palette_indices_and_ignores_the_outline(tmp_path):
    trees.voc(tmp_path)
    row, label = first_row("voc2012", tmp_path)
    assert row == ["background", "person", None, "background"] and (label[1:] == 0).all()
    assert len(open_dataset("voc2012", str(tmp_path), "trainval", SIZE)) == 3


def test_the_root_may_be_the_devkit_or_the_year(tmp_path):
    base = trees.voc(tmp_path)
    for root in (tmp_path, base.parent, base):
        assert len(open_dataset("voc2012", str(root), "train", SIZE)) == 2


def test_sbd_adds_images_and_vocs_own_labels_win(tmp_path):
    trees.voc(tmp_path)
    data = open_dataset("voc2012", str(tmp_path), "train", SIZE, train_list="trainaug")
    assert [data.name(i) for i in range(3)] == ["2007_000001", "2007_000002", "2008_000003"]
    assert data[0][1][0, 2] == IGNORE and data[2][1][0, 1] == 7
    assert len(open_dataset("voc2012", str(tmp_path), "val", SIZE, train_list="trainaug")) == 1


def test_deeplabs_lists_of_paths(tmp_path):
    base = trees.voc(tmp_path)
    line = "/JPEGImages/2008_000003.jpg /SegmentationClassAug/2008_000003.png"
    trees.names(base / "ImageSets" / "Segmentation" / "trainaug.txt", [line])
    assert open_dataset("voc2012", str(tmp_path), "trainaug", SIZE).name(0) == "2008_000003"


def test_ade_reduces_the_zero_label(tmp_path):
    trees.ade(tmp_path)
    row, label = first_row("ade20k", tmp_path, "val")
    assert row == [None, "wall", "flag", None] and (label[1:] == IGNORE).all()


def test_ade_that_was_reduced_before_is_refused(tmp_path):
    base = trees.ade(tmp_path)
    trees.ids(base / "annotations/training/ADE_train_00000001.png", [255, 0, 149])
    with pytest.raises(DataError, match=r"holds id 255; valid are 1 to 150 and 0 \(ignored\)"):
        open_dataset("ade20k", str(tmp_path), "train", SIZE)[0]


@pytest.mark.parametrize("form", ["mat", "png"])
def test_cocostuff_in_both_forms(tmp_path, form):
    trees.cocostuff(tmp_path, form)
    for split in ("train", "val"):
        assert first_row("cocostuff10k", tmp_path, split)[0] == [None, "person", "wood", "stop sign"]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda p: trees.ids(p, [0, 12]), "holds id 12; valid are 1 to 11, 13 to 25"),
        (lambda p: p.write_bytes(b"MATLAB 5.0 MAT-file" + b"x" * 200), "label cannot be read"),
        (lambda p: p.write_bytes(b""), "label cannot be read"),
        (lambda p: trees.savemat(p, {"T": np.zeros((6, 8))}), "label holds no map S"),
        (lambda p: trees.savemat(p, {"S": np.full((6, 8), 999, np.uint16)}), "ids of 0 to 255 are wanted"),
        (lambda p: trees.savemat(p, {"S": np.full((6, 8), 0.5)}), "float64"),
    ],
)
def test_faulty_mat_files(tmp_path, spoil, said):
    trees.cocostuff(tmp_path, "mat")
    path = tmp_path / "annotations" / "COCO_train2014_000000000077.mat"
    spoil(path)
    with pytest.raises(DataError, match=said) as fault:
        open_dataset("cocostuff10k", str(tmp_path), "train", SIZE)[0]
    assert str(path) in str(fault.value)


def test_context_with_and_without_the_background(tmp_path):
    trees.context(tmp_path)
    assert first_row("pascal_context", tmp_path)[0] == [None, "aeroplane", "wood", None]
    row, _ = first_row("pascal_context", tmp_path, "val", background=True)
    assert row == ["background", "aeroplane", "wood", "background"]
    assert len(open_dataset("pascal_context", str(tmp_path), "val", SIZE, background=True).classes) == 60


def test_cityscapes_official_archives(tmp_path):
    trees.cityscapes(tmp_path)
    data = open_dataset("cityscapes", str(tmp_path), "train", SIZE)
    assert len(data) == 2 and first_row("cityscapes", tmp_path)[0] == ["road", None, "bicycle", None]


def test_own_size(tmp_path):
    base = trees.voc(tmp_path)
    trees.picture(base / "JPEGImages" / "2007_000002.jpg", (10, 30))
    trees.ids(base / "SegmentationClass" / "2007_000002.png", [0, 20], (10, 30), palette=True)
    data = open_dataset("voc2012", str(tmp_path), "train", None)
    assert data[0][1].shape == (6, 8) and data[1][0].shape == (10, 30, 3) and data[1][1].shape == (10, 30)


def test_windows_line_ends_blank_lines_and_names_with_spaces(tmp_path):
    base = trees.voc(tmp_path)
    trees.picture(base / "JPEGImages" / "a b c.jpg")
    trees.ids(base / "SegmentationClass" / "a b c.png", [3])
    trees.names(base / "ImageSets/Segmentation/train.txt", ["\ufeff2007_000001", "", "a b c  ", ""], end="\r\n")
    data = open_dataset("voc2012", str(tmp_path), "train", SIZE)
    assert [data.name(i) for i in range(len(data))] == ["2007_000001", "a b c"]


@pytest.mark.parametrize("mode", ["L", "CMYK", "1"])
def test_images_that_are_not_rgb(tmp_path, mode):
    base = trees.voc(tmp_path)
    path = base / "JPEGImages" / "2007_000001.jpg"
    Image.fromarray(np.full((*SIZE, 3), 255, np.uint8)).convert(mode).save(path)
    image, _ = open_dataset("voc2012", str(tmp_path), "train", SIZE)[0]
    assert image.shape == (*SIZE, 3) and image.min() > 250


def test_sixteen_bits_are_refused(tmp_path):
    for kind in ("images", "labels"):
        (tmp_path / "train" / kind).mkdir(parents=True)
    Image.fromarray(np.full(SIZE, 40000, np.uint16)).save(tmp_path / "train/images/a.png")
    trees.ids(tmp_path / "train/labels/a.png", [0])
    with pytest.raises(DataError, match="image has mode I;16; 8 bits"):
        open_dataset("folder", str(tmp_path), "train", SIZE, classes=["a", "b"])[0]


def _rgb(base: Path) -> None:
    label = Image.open(base / "SegmentationClass" / "2007_000001.png").convert("RGB")
    label.save(base / "SegmentationClass" / "2007_000001.png")


FAULTS = {
    "colours": (_rgb, r"label has mode RGB \(colours: turn them into ids first\)"),
    "another size": (
        lambda b: trees.ids(b / "SegmentationClass/2007_000001.png", [0], (8, 6)),
        "label is 8x6, its image 6x8",
    ),
    "an id too many": (
        lambda b: trees.ids(b / "SegmentationClass/2007_000001.png", [0, 21, 200]),
        r"holds id 21, 200; valid are 0 to 20 and 255 \(ignored\)",
    ),
    "no label": (lambda b: (b / "SegmentationClass/2007_000002.png").unlink(), "2007_000002.jpg: its label is missing"),
    "no image": (lambda b: (b / "JPEGImages/2007_000002.jpg").unlink(), "2007_000002.jpg: image is missing"),
    "empty list": (lambda b: trees.names(b / "ImageSets/Segmentation/train.txt", ["", ""]), "the list is empty"),
    "no list": (
        lambda b: (b / "ImageSets/Segmentation/train.txt").unlink(),
        "list is missing .lists there: trainaug.txt, trainval.txt, val.txt",
    ),
    "not text": (
        lambda b: (b / "ImageSets/Segmentation/train.txt").write_bytes(b"\xff\xfe2\x00"),
        "list cannot be read",
    ),
    "no images at all": (
        lambda b: (b / "JPEGImages").rename(b / "Images"),
        "no PASCAL VOC 2012 here; wanted VOCdevkit",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_name_the_file(tmp_path, name):
    spoil, said = FAULTS[name]
    spoil(trees.voc(tmp_path))
    with pytest.raises(DataError, match=said) as fault:
        open_dataset("voc2012", str(tmp_path), "train", SIZE)[0]
    assert str(tmp_path) in str(fault.value) and "\n" not in str(fault.value)


def test_how_many_are_missing_is_said(tmp_path):
    base = trees.voc(tmp_path)
    for path in (base / "SegmentationClass").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"2007_000002.jpg: its label is missing .* \(and 1 more\)"):
        open_dataset("voc2012", str(tmp_path), "trainval", SIZE)
