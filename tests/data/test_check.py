"""`edgeprune data check`: what it counts, what it finds, how it ends, and the sheet that it draws."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeprune.data.check import check, summary
from edgeprune.data.contact import contact_sheet, spread, write_sheet
from tests.data import trees


def faults(err: str) -> tuple[list[str], str]:
    """The lines of faults, and the one that says error."""
    lines = err.strip().splitlines()
    errors = [line for line in lines if line.startswith("error:")]
    assert "Traceback" not in err and len(errors) == 1, err
    return [line for line in lines if line.startswith("fault:")], errors[0]


def test_pixels_and_images_are_counted(tmp_path):
    trees.voc(tmp_path)
    found = check("voc2012", str(tmp_path), "train")
    assert (found.images, found.read, found.faults, found.sizes) == (2, 2, [], {(6, 8): 2})
    assert found.counts[0] == 46 + 47 and found.counts[15] == found.counts[20] == found.counts[-1] == 1
    assert found.holders[0] == 2 and found.holders[15] == 1 and len(found.never) == 18 and "cat" in found.never
    assert summary(found).startswith("train: 2 images, 2 read and right, 6x8; never there: aeroplane, bicycle")


def test_a_part_is_read_but_all_missing_files_are_named(tmp_path):
    base = trees.ade(tmp_path)
    for i in range(2, 8):
        trees.picture(base / f"images/training/ADE_train_{i:08}.jpg", (6 + i, 8))
        trees.ids(base / f"annotations/training/ADE_train_{i:08}.png", [1], (6 + i, 8))
    (base / "annotations/training/ADE_train_00000007.png").unlink()
    found = check("ade20k", str(tmp_path), "train", limit=2)
    assert (found.images, found.read, len(found.faults)) == (7, 2, 1)
    assert "ADE_train_00000007.jpg: its label is missing" in found.faults[0]
    assert "2 sizes, 6 to 10 high, 8 to 8 wide" in summary(found)


def test_the_command_prints_and_draws(cli, tmp_path):
    trees.voc(tmp_path)
    out = tmp_path / "sheet.png"
    code, said, err = cli("data", "check", "voc2012", str(tmp_path), "--split", "train,val,trainaug", "--out", str(out))
    assert code == 0 and "trainaug: 3 images, 3 read and right" in said and "tvmonitor" in said and str(out) in err
    sheet = np.asarray(Image.open(out)).reshape(-1, 3)
    for color in ((192, 128, 128), (0, 64, 128), (120, 120, 120)):  # person, tvmonitor, the images' grey
        assert (np.abs(sheet.astype(int) - color).max(1) <= 3).any(), color


def test_faults_are_listed_and_counted(cli, tmp_path):
    base = trees.voc(tmp_path)
    trees.ids(base / "SegmentationClass/2007_000001.png", [0, 77])
    trees.ids(base / "SegmentationClass/2007_000002.png", [0], (8, 6))
    (base / "JPEGImages/2007_000009.jpg").write_bytes(b"no image")
    out = tmp_path / "sheet.png"
    code, said, err = cli("data", "check", "voc2012", str(tmp_path), "--out", str(out))
    lines, error = faults(err)
    assert code == 1 and error == "error: 3 faults" and not out.exists()
    for line, part in zip(lines, ("holds id 77", "label is 8x6", "image cannot be read"), strict=True):
        assert part in line and str(base) in line
    assert "train: 2 images, 0 read and right" in said


def test_of_many_faults_ten_are_named(cli, tmp_path):
    base = trees.ade(tmp_path)
    for i in range(2, 16):
        trees.picture(base / f"images/training/ADE_train_{i:08}.jpg")
    code, _, err = cli("data", "check", "ade20k", str(tmp_path), "--out", str(tmp_path / "sheet.png"))
    lines, error = faults(err)
    assert code == 1 and len(lines) == 10 and error == "error: 14 faults; the first 10 are named"
    assert (tmp_path / "sheet.png").exists()  # of what is right


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("voc",), 2, "'voc' is no data set; did you mean voc2012?"),
        (("imagenet",), 2, "'imagenet' is no data set; "),
        (("voc2012", "/nowhere"), 1, "/nowhere is not a folder"),
        (("voc2012",), 1, "data.root is missing: the folder of voc2012"),
        (("folder", "{root}", "--args", "[a, b]"), 2, "write a mapping"),
        (("folder", "{root}", "--args", "{classes: ["), 2, "write a mapping"),
        (("folder", "{root}", "--args", "{clases: [a, b]}"), 2, "folder takes no such argument; did you mean classes?"),
        (("streets", "--split", "test"), 1, "no split test"),
        (("voc2012", "{root}", "--split", "trainaug"), 1, "no PASCAL VOC 2012 here"),
    ],
)
def test_one_fault_is_one_line(cli, tmp_path, monkeypatch, args, code, said):
    monkeypatch.chdir(tmp_path)
    ended, _, err = cli("data", "check", *(a.format(root=tmp_path) if a == "{root}" else a for a in args))
    lines, error = faults(err)
    assert ended == code and said in error and not lines
    assert not (tmp_path / "contact.png").exists()


def test_your_own_folder_with_names_beyond_ascii(cli, tmp_path):
    for split in ("train", "val"):
        trees.picture(tmp_path / split / "images" / "Straße 1.png")
        trees.ids(tmp_path / split / "labels" / "Straße 1.png", [0, 1])
    args = ["--args", "{classes: [Straße, Fußgänger]}", "--out", str(tmp_path / "s.png")]
    code, said, _ = cli("data", "check", "folder", str(tmp_path), *args)
    assert code == 0 and "Fußgänger" in said and (tmp_path / "s.png").exists()


def test_many_classes_and_wide_pictures_fit_the_sheet(tmp_path):
    trees.cocostuff(tmp_path, "mat")
    name = "COCO_train2014_000000000077"
    trees.picture(tmp_path / "images" / f"{name}.jpg", (4, 900))
    trees.ids(tmp_path / "annotations" / f"{name}.mat", [0, 1], (4, 900))
    found = check("cocostuff10k", str(tmp_path), "train")
    assert found.data is not None
    sheet = contact_sheet(found.data, [0], "train")
    assert sheet.width == 1250 and sheet.height > 35 * 18
    write_sheet(tmp_path / "both.png", [found, check("cocostuff10k", str(tmp_path), "val")])
    assert Image.open(tmp_path / "both.png").height == 2 * sheet.height


def test_spread_over_what_is_right():
    assert spread([3, 4, 7], 6) == [3, 4, 7] and spread(list(range(10)), 3) == [0, 3, 6]


def test_camvid(cli, camvid: Path, tmp_path):
    out = tmp_path / "sheet.png"
    code, said, _ = cli("data", "check", "camvid", str(camvid), "--limit", "12", "--out", str(out))
    assert code == 0 and out.exists()
    assert "train: 367 images, 12 read and right, 360x480" in said and "val: 101 images" in said
