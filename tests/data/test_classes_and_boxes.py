"""Data sets of classification and detection: read in their true layouts, refused in one line, moved along with views."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgeprune.data import check, open_dataset
from edgeprune.data.boxes import Boxed
from edgeprune.data.class_folders import Classed, open_class_folders
from edgeprune.data.dataset import Files, ids_table
from edgeprune.data.labels import CROWD, KINDS, moved_boxes, unfit
from edgeprune.data.loader import train_loader
from edgeprune.errors import DataError
from edgeprune.recipe import Train
from tests.data.trees import picture


def cifar(root: Path, images: int = 4) -> Path:
    """The binary version with `images` images a file; image n of a file is of class n and has a red corner of value n."""
    base = root / "cifar-10-batches-bin"
    base.mkdir(parents=True)
    for name in [*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"]:
        planes = np.zeros((images, 3, 32, 32), np.uint8)
        planes[:, 0, 0, 1] = np.arange(images) + 100  # red, first row, second column
        planes[:, 2, 31, 0] = 7  # blue, last row
        records = np.concatenate([np.arange(images, dtype=np.uint8)[:, None], planes.reshape(images, -1)], axis=1)
        (base / name).write_bytes(records.tobytes())
    return base


def voc(root: Path) -> Path:
    """A training image with a dog and a difficult person, one to judge without any."""
    base = root / "VOCdevkit" / "VOC2007"
    for name in ("000001", "000002"):
        picture(base / "JPEGImages" / f"{name}.jpg", (40, 60))
    things = [("dog", (1, 1, 30, 20), 0), ("person", (31, 21, 60, 40), 1)]
    text = "".join(
        f"<object><name>{n}</name><difficult>{d}</difficult><bndbox><xmin>{b[0]}</xmin><ymin>{b[1]}</ymin><xmax>{b[2]}</xmax>"
        f"<ymax>{b[3]}</ymax></bndbox><part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>"
        for n, b, d in things
    )
    (base / "Annotations").mkdir()
    (base / "Annotations" / "000001.xml").write_text(f"<annotation>{text}</annotation>")
    (base / "Annotations" / "000002.xml").write_text("<annotation></annotation>")
    lists = base / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "trainval.txt").write_text("000001\n")
    (lists / "test.txt").write_text("000002\n")
    return base


def coco(root: Path) -> dict:
    """Two classes with ids 3 and 90; image 7 holds one of each and a crowd, image 9 nothing."""
    content = {
        "categories": [{"id": 90, "name": "kite"}, {"id": 3, "name": "car"}],
        "images": [{"id": 9, "file_name": "b.jpg"}, {"id": 7, "file_name": "a.jpg"}],
        "annotations": [
            {"image_id": 7, "category_id": 90, "bbox": [10, 4, 20, 8], "iscrowd": 0},
            {"image_id": 7, "category_id": 3, "bbox": [0, 0, 5, 5], "iscrowd": 1},
            {"image_id": 7, "category_id": 3, "bbox": [1, 1, 0, 5], "iscrowd": 0},
        ],
    }
    for name in ("train2017", "val2017"):
        picture(root / name / "a.jpg", (20, 40))
        picture(root / name / "b.jpg", (20, 40))
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{name}.json").write_text(json.dumps(content))
    return content


def test_cifar10_is_read_plane_by_plane(tmp_path):
    cifar(tmp_path)
    data = open_dataset("cifar10", str(tmp_path), "train", (32, 32))
    assert len(data) == 20 and len(open_dataset("cifar10", str(tmp_path), "val", (32, 32))) == 4
    image, label = data[6]
    assert int(label) == 2 == int(data.label(6)) and data.classes[2] == "bird"
    assert image.shape == (32, 32, 3) and image[0, 1].tolist() == [102, 0, 0] and image[31, 0].tolist() == [0, 0, 7]
    assert open_dataset("cifar10", str(tmp_path), "val", (64, 48))[0][0].shape == (64, 48, 3)


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("/tmp/edgeprune-ran-a-batch"),))


def test_cifar10_in_pickles_is_refused_and_never_read(tmp_path):
    mark = Path("/tmp/edgeprune-ran-a-batch")
    mark.unlink(missing_ok=True)
    (tmp_path / "cifar-10-batches-py").mkdir()
    for name in ("test_batch", "data_batch_1"):
        (tmp_path / "cifar-10-batches-py" / name).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(DataError, match="only the Python version, whose pickles run code"):
        open_dataset("cifar10", str(tmp_path), "train", (32, 32))
    assert not mark.exists()


def test_cifar10_that_is_not_whole(tmp_path):
    base = cifar(tmp_path)
    path = base / "data_batch_3.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=r"data_batch_3\.bin: 12291 bytes are no whole number of records of 3073"):
        open_dataset("cifar10", str(tmp_path), "train", (32, 32))
    path.write_bytes(b"\x0b" + whole[1:])
    with pytest.raises(DataError, match="record 0 has class 11; valid are 0 to 9"):
        open_dataset("cifar10", str(tmp_path), "train", (32, 32))


def test_classes_are_the_folders_of_training(tmp_path):
    for place in ("train/cat/1.png", "train/ant/1.png", "train/ant/2.jpg", "val/cat/9.png"):
        picture(tmp_path / place, (6, 8))
    data = open_dataset("class_folders", str(tmp_path), "val", (6, 8))
    assert data.classes == ["ant", "cat"] and int(data[0][1]) == 1 and data.name(0) == "9"
    picture(tmp_path / "val" / "dog" / "1.png")
    with pytest.raises(DataError, match="class dog is not in"):
        open_dataset("class_folders", str(tmp_path), "val", (6, 8))


def test_voc_boxes_end_behind_their_last_pixel_and_scale_with_the_image(tmp_path):
    voc(tmp_path)
    data = open_dataset("voc_detection", str(tmp_path), "train", (80, 60))
    image, label = data[0]
    assert image.shape == (80, 60, 3)
    assert label.tolist() == [[0, 0, 30, 40, 11, 0], [30, 40, 60, 80, 14, 1]] and data.classes[11] == "dog"
    assert open_dataset("voc_detection", str(tmp_path / "VOCdevkit"), "val", None)[0][1].shape == (0, 6)
    both = open_dataset("voc_detection", str(tmp_path), "train", None, train_list=["2007/trainval", "2007/test"])
    assert len(both) == 2 and both[0][0].shape == (40, 60, 3)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("dog", "wolf", "class 'wolf' is none of VOC's 20"),
        ("<ymax>20</ymax>", "", "a dog has no whole bndbox"),
        ("<xmax>30</xmax>", "<xmax>0</xmax>", "ends before it begins"),
        ("</annotation>", "", "annotation cannot be read"),
    ],
)
def test_a_wrong_annotation_is_one_line(tmp_path, old, new, said):
    path = voc(tmp_path) / "Annotations" / "000001.xml"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(DataError, match=said) as fault:
        open_dataset("voc_detection", str(tmp_path), "train", None)
    assert str(path) in str(fault.value) and "\n" not in str(fault.value)


def test_a_box_outside_of_its_image_and_a_list_without_a_year(tmp_path):
    path = voc(tmp_path) / "Annotations" / "000001.xml"
    path.write_text(path.read_text().replace("<xmax>30</xmax>", "<xmax>300</xmax>"))
    with pytest.raises(DataError, match=r"000001\.jpg is 60 wide, 40 high"):
        open_dataset("voc_detection", str(tmp_path), "train", None)[0]
    with pytest.raises(DataError, match="write year/list"):
        open_dataset("voc_detection", str(tmp_path), "train", None, train_list="trainval")


def test_coco_ids_have_gaps_and_images_without_boxes_are_only_judged(tmp_path):
    content = coco(tmp_path)
    data = open_dataset("coco_detection", str(tmp_path), "train", None)
    assert data.classes == ["car", "kite"] and len(data) == 1 and data.name(0) == "a"
    assert data[0][1].tolist() == [[10, 4, 30, 12, 1, 0], [0, 0, 5, 5, 0, 2]]
    assert [len(open_dataset("coco_detection", str(tmp_path), "val", None)[n][1]) for n in (0, 1)] == [2, 0]
    content["annotations"][0]["category_id"] = 4
    (tmp_path / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"not COCO's instances \(KeyError: 4\)"):
        open_dataset("coco_detection", str(tmp_path), "train", None)
    (tmp_path / "val2017" / "b.jpg").unlink()
    with pytest.raises(DataError, match=r"b\.jpg: image is missing"):
        open_dataset("coco_detection", str(tmp_path), "val", None)


@pytest.mark.parametrize("name", ["objects", "street_boxes"])
def test_drawn_sets_hang_on_seed_split_and_number_alone(name):
    size = (32, 48)
    a, b = (open_dataset(name, None, "train", size, train=6, val=3) for _ in range(2))
    for n in (4, 1):
        np.testing.assert_array_equal(a[n][0], b[n][0])
        np.testing.assert_array_equal(a[n][1], b.label(n))
    assert (a[1][0] != open_dataset(name, None, "val", size, train=6, val=3)[1][0]).any()


def test_drawn_boxes_hold_their_class():
    from edgeprune.data import streets

    data = open_dataset("street_boxes", None, "train", (96, 192), train=12)
    labels = np.concatenate([data[n][1] for n in range(12)])
    assert set(labels[:, 4]) == {0, 1, 2, 3} and (labels[:, 2:4] - labels[:, :2] >= 1).all()
    assert ((labels[:, 5] == 1) == ((labels[:, 2:4] - labels[:, :2]).min(1) < 4)).all()
    rng = np.random.default_rng([0, 4, 3])
    _, mask = streets.draw((96, 192), rng, 0)  # the same scene with its pixels
    for x0, y0, x1, y1, k, _ in data[3][1].astype(int):
        wanted = streets.CLASSES.index(data.classes[k])
        inside = mask[y0:y1, x0:x1] == wanted
        assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()


def test_boxes_move_with_the_pixels():
    """A white rectangle on black: after any view its box still fits it."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:22, 30:50] = 255
    label = np.array([[30, 10, 50, 22, 2, 0]], np.float32)

    class One:
        classes = ["a", "b", "c"]

        def __len__(self):
            return 1

        def __getitem__(self, index):
            return image, label

    cfg = Train(steps=1, batch=1, augment={"scale": [0.8, 1.5], "pad": 6, "flip": 0.5, "color": 0})
    seen = 0
    batches = train_loader(One(), cfg, 0, crop=(40, 60), move=KINDS["detection"].move)
    for (x, y), _ in zip(batches.stream(), range(30), strict=False):
        ys, xs = torch.nonzero(x[0, 0] > 1, as_tuple=True)
        rows = y[0][y[0, :, 4] >= 0]
        if not len(ys):
            continue
        assert len(rows) == 1 and rows[0, 4] == 2
        found = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        assert (rows[0, :4] - found).abs().max() < 1.6
        seen += 1
    assert seen > 20


def test_of_too_many_boxes_those_that_a_view_shows_count():
    boxes = np.array([[10 * i, 0, 10 * i + 8, 8, 0, 0] for i in range(300)], np.float32)
    matrix = torch.tensor([[[1.0, 0, -2000], [0, 1, 0]]])  # the 201st and those after it
    rows = moved_boxes(boxes, matrix, (30, 60))
    assert (rows[:, 4] >= 0).sum() == 6
    assert (moved_boxes(boxes, torch.tensor([[[1.0, 0, 0], [0, 1, 0]]]), (30, 3000))[:, 4] >= 0).all()


@pytest.mark.parametrize("mode", ["I;16", "F"])
def test_more_than_8_bits_are_refused_and_not_cut_off_at_white(tmp_path, mode):
    path = tmp_path / "a.tif"
    Image.fromarray(np.full((8, 8), 300, np.uint16 if mode == "I;16" else np.float32)).save(path)
    for data in (Classed([(path, 0)], ["a", "b"], [], None), Boxed([(path, path, [])], ["a"], [], None)):
        with pytest.raises(DataError, match="8 bits a channel"):
            data[0]


def test_what_a_view_hardly_shows_is_not_judged():
    matrix = torch.tensor([[[1.0, 0, -20], [0, 1, 0]]])  # 20 pixels to the left
    boxes = np.array([[0, 0, 10, 10, 0, 0], [0, 0, 24, 10, 1, 0], [10, 0, 40, 10, 2, 0]], np.float32)
    rows = moved_boxes(boxes, matrix, (30, 30))
    assert rows[rows[:, 4] >= 0].tolist() == [[0, 0, 4, 10, 1, 1], [0, 0, 20, 10, 2, 0]] and rows.shape == (128, 6)


def test_a_crowd_that_a_view_cuts_stays_one():
    matrix = torch.tensor([[[1.0, 0, -60], [0, 1, 0]]])
    rows = moved_boxes(np.array([[0, 0, 80, 50, 0, CROWD]], np.float32), matrix, (60, 60))
    assert rows[rows[:, 4] >= 0].tolist() == [[0, 0, 20, 50, 0, CROWD]]


def test_hidden_folders_are_no_classes(tmp_path):
    for split in ("train", "val"):
        for name in ("cat", "dog", ".ipynb_checkpoints"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / split / name / "a.png")
    assert open_class_folders(tmp_path, "val", None).classes == ["cat", "dog"]


def test_what_is_stored_turned_is_turned_for_a_class_and_refused_for_labels(tmp_path):
    path, pixels = tmp_path / "a.png", np.zeros((4, 8, 3), np.uint8)
    pixels[0, 0] = 255
    told = Image.Exif()
    told[0x0112] = 6
    Image.fromarray(pixels).save(path, exif=told)
    Image.new("L", (4, 8)).save(tmp_path / "label.png")
    image, _ = Classed([(path, 0)], ["a", "b"], [], None)[0]
    assert image.shape == (8, 4, 3) and image[0, 3, 0] == 255
    for data in (
        Boxed([(path, path, [])], ["a"], [], None),
        Files([(path, tmp_path / "label.png")], ["a", "b"], [], None, ids_table(2, [])),
    ):
        with pytest.raises(DataError, match=r"a\.png: image is stored turned \(EXIF orientation 6\)"):
            data[0]


@pytest.mark.parametrize("orientation", [0, 1, 99])
def test_an_orientation_that_turns_nothing_is_none(tmp_path, orientation):
    told = Image.Exif()
    told[0x0112] = orientation
    Image.new("RGB", (8, 4)).save(tmp_path / "a.png", exif=told)
    for data in (
        Classed([(tmp_path / "a.png", 0)], ["a", "b"], [], None),
        Boxed([(tmp_path / "a.png", tmp_path, [])], ["a"], [], None),
    ):
        assert data[0][0].shape == (4, 8, 3)


def test_data_check_counts_images_and_boxes(cli, tmp_path):
    cifar(tmp_path / "c")
    out = tmp_path / "sheet.png"
    code, said, _ = cli("data", "check", "cifar10", str(tmp_path / "c"), "--out", str(out))
    assert code == 0 and "train: 20 images, 20 read and right, 32x32; never there: deer" in said and out.exists()
    assert "share of the judged images" in said
    voc(tmp_path / "v")
    found = check.check("voc_detection", str(tmp_path / "v"), "train")
    assert found.counts[11] == 1 and found.counts[14] == 0 and found.counts[-1] == 1 and found.kind.unit == "boxes"
    code, said, _ = cli("data", "check", "voc_detection", str(tmp_path / "v"), "--split", "train", "--out", str(out))
    assert code == 0 and "share of the judged boxes" in said
    code, _, err = cli("data", "check", "voc_detection", str(tmp_path / "v"), "--split", "val", "--out", str(out))
    assert code == 1 and "nothing that is judged lies in 1 validation labels, no box" in err


@pytest.mark.parametrize(
    ("task", "split", "holders", "said"),
    [
        ("classification", "train", [0, 4], "all that is judged in 4 training labels is of one class; never there: a"),
        ("segmentation", "train", [4, 0], "all that is judged in 4 training labels is of one class; never there: b"),
        ("classification", "val", [0, 4], None),  # one or two images, as was asked
        ("segmentation", "val", [4, 0], None),  # of a binary mask
        ("segmentation", "test", [4, 0], None),
        ("detection", "val", [0, 0], "nothing that is judged lies in 4 validation labels, no box"),
        ("segmentation", "val", [0, 0], "nothing that is judged lies in 4 validation labels. Labels hold class ids"),
        ("classification", "val", [0, 0], "nothing that is judged lies in 4 validation labels"),
        ("detection", "val", [0, 1], None),  # its other class scores nothing, and that is told
        ("classification", "train", [2, 2], None),
    ],
)
def test_what_a_split_must_hold(task, split, holders, said):
    found = unfit(task, split, ["a", "b"], np.array(holders), 4)
    assert found is None if said is None else found is not None and said in found


def test_one_class_of_boxes_is_enough():
    assert unfit("detection", "train", ["a"], np.array([3]), 4) is None
    assert (
        unfit("detection", "train", ["a"], np.array([0]), 4)
        == "data: nothing that is judged lies in 4 training labels, no box"
    )
