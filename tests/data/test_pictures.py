"""Label and image files of every kind: read as they are meant, or refused in one line."""

import io
import json
import struct
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from edgeprune.data import check, open_dataset
from edgeprune.data.coco_detection import open_coco_detection
from edgeprune.data.dataset import IGNORE, Files, ids_table
from edgeprune.data.pictures import opened_image, opened_label
from edgeprune.data.voc_detection import boxes_of
from edgeprune.errors import DataError, EdgepruneError
from tests.data import trees

IDS = np.arange(48, dtype=np.uint8).reshape(6, 8) % 12
DAMAGED = settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def as_file(path: Path, values: np.ndarray = IDS, mode: str | None = None, **options) -> None:
    """`options` are Pillow's; the format is told there, not by the name."""
    image = Image.fromarray(values)
    (image if mode is None else image.convert(mode)).save(path, **options)


def png(path: Path, values: np.ndarray, bits: int, color: int, interlaced: bool = False) -> None:
    """A PNG of any depth, which Pillow cannot write: (H, W) or (H, W, channels) values, packed into bytes."""

    def rows(part: np.ndarray) -> bytes:
        flat = part.reshape(len(part), -1).astype(">u2")
        planes = (flat[..., None] >> np.arange(bits - 1, -1, -1)) & 1
        return b"".join(b"\0" + np.packbits(row).tobytes() for row in planes.reshape(len(part), -1).astype(np.uint8))

    passes = [(0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1)]
    parts = [values[y::dy, x::dx] for y, dy, x, dx in passes] if interlaced else [values]
    height, width = values.shape[:2]
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, interlaced))]
    chunks += [(b"PLTE", bytes(range(3 * min(256, 1 << bits))))] if color == 3 and bits < 7 else []
    chunks += [(b"IDAT", zlib.compress(b"".join(rows(p) for p in parts if p.size))), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    )


LOSSY = {
    "jpeg": partial(as_file, format="JPEG", quality=95),
    "jpeg, grey of one class": partial(as_file, values=np.full((8, 8), 3, np.uint8), format="JPEG"),
    "jpeg in colours": partial(as_file, mode="RGB", format="JPEG"),
    "webp": partial(as_file, format="WEBP", quality=80),
    "webp without loss": partial(as_file, format="WEBP", lossless=True),
    "avif": partial(as_file, format="AVIF"),
    "jpeg 2000": partial(as_file, format="JPEG2000", irreversible=True),
    "jpeg 2000 of integers, cut to a rate": partial(as_file, format="JPEG2000", quality_layers=[20]),
    "jpeg in a tiff": partial(as_file, format="TIFF", compression="jpeg"),
}


@pytest.mark.parametrize("kind", LOSSY)
def test_labels_in_a_lossy_format_are_refused_whatever_their_name(tmp_path, kind):
    path = tmp_path / "a.png"
    LOSSY[kind](path)
    with pytest.raises(DataError, match="is lossy or may be, so ids change; write labels as PNG") as fault:
        opened_label(path)
    assert str(path) in str(fault.value)


OTHERS = {
    "gif": (partial(as_file, format="GIF"), "label is a GIF file; ids are read from PNG, BMP and TIFF"),
    "pgm of 13 greys, which are scaled": (lambda p: p.write_bytes(b"P5 2 2 12\n\0\1\2\3"), "a PPM file"),
    "grey and alpha": (partial(as_file, mode="LA", format="PNG"), "mode LA"),
    "16 bits": (partial(as_file, values=IDS.astype(np.uint16), format="PNG"), "mode I;16; one byte a pixel"),
    "16 bits in colours": (lambda p: png(p, np.zeros((4, 4, 3), np.uint16), 16, 2), r"mode RGB \(colours"),
    "floats": (partial(as_file, values=IDS.astype(np.float32), format="TIFF"), "mode F"),
    "grey of 4 bits": (lambda p: png(p, IDS, 4, 0), "stored as L;4, grey of less than 8 bits"),
    "grey of 2 bits": (lambda p: png(p, IDS % 4, 2, 0), "stored as L;2"),
    "inverted tiff": (partial(as_file, format="TIFF", tiffinfo={262: 0}), "stored as L;I"),
    "two pages": (
        lambda p: Image.fromarray(IDS).save(p, format="TIFF", save_all=True, append_images=[Image.fromarray(IDS)]),
        "2 pages or frames",
    ),
    "moving": (
        lambda p: Image.fromarray(IDS).save(p, format="PNG", save_all=True, append_images=[Image.fromarray(IDS + 1)]),
        "2 pages or frames",
    ),
    "turned": (partial(as_file, format="TIFF", tiffinfo={274: 3}), "label is stored turned"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_labels_that_do_not_keep_ids_are_refused(tmp_path, kind):
    make, said = OTHERS[kind]
    make(tmp_path / "a.png")
    with pytest.raises(DataError, match=said):
        opened_label(tmp_path / "a.png")


KEPT = {
    "grey": partial(as_file, format="PNG"),
    "palette": lambda p: trees.ids(p, [0], palette=True),
    "palette of 4 bits": lambda p: png(p, IDS, 4, 3),
    "palette with transparency": lambda p: Image.fromarray(IDS).convert("P").save(p, transparency=3),
    "1 bit": lambda p: png(p, IDS % 2, 1, 0),
    "interlaced": lambda p: png(p, IDS, 8, 0, interlaced=True),
    "bmp": partial(as_file, format="BMP"),
    "tiff": partial(as_file, format="TIFF"),
    "packed tiff": partial(as_file, format="TIFF", compression="tiff_lzw"),
}


@pytest.mark.parametrize("kind", KEPT)
def test_ids_are_read_as_they_are_stored(tmp_path, kind):
    path = tmp_path / "a.png"
    KEPT[kind](path)
    wanted = {"palette": np.zeros_like(IDS), "1 bit": IDS % 2}.get(kind, IDS)
    np.testing.assert_array_equal(np.asarray(opened_label(path)), wanted)


def test_a_flipped_bit_in_a_label_is_noticed(tmp_path):
    """Its decoder alone would give other ids for one bit in six."""
    path = tmp_path / "a.png"
    as_file(path)
    whole = path.read_bytes()
    start = whole.index(b"IDAT") + 4
    for at in range(start, whole.index(b"IEND") - 8):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(DataError, match="label cannot be read"):
            opened_label(path)


def pair(root: Path, image, label) -> Files:
    image(root / "i.png")
    label(root / "l.png")
    return Files([(root / "i.png", root / "l.png")], ["a", "b"], [], (4, 4), ids_table(2, [255]))


def test_ids_that_resizing_leaves_out_are_found(tmp_path):
    odd = np.zeros((64, 64), np.uint8)
    odd[1, 1] = 77
    data = pair(tmp_path, lambda p: trees.picture(p, (64, 64)), lambda p: as_file(p, odd))
    for read in (lambda: data[0], lambda: data.label(0)):
        with pytest.raises(DataError, match="label holds id 77; valid are 0 to 1 and 255"):
            read()


def test_resizing_takes_the_nearest_id(tmp_path):
    ids = np.kron(np.array([[0, 1], [1, 255]], np.uint8), np.ones((4, 4), np.uint8))
    label = pair(tmp_path, lambda p: trees.picture(p, (8, 8)), lambda p: as_file(p, ids))[0][1]
    np.testing.assert_array_equal(label, np.kron(np.array([[0, 1], [1, 255]]), np.ones((2, 2))))


def rgb16(path: Path) -> None:
    png(path, np.full((4, 4, 3), 40000), 16, 2)


IMAGES = {
    "16 bits in colours": (rgb16, "16 bits a channel; 8 bits a channel are wanted"),
    "16 bits with alpha": (lambda p: png(p, np.full((4, 4, 4), 40000), 16, 6), "16 bits a channel"),
    "16 bits, grey and alpha": (lambda p: png(p, np.full((4, 4, 2), 40000), 16, 4), "16 bits a channel"),
    "two pages": (
        lambda p: Image.new("RGB", (4, 4)).save(
            p, format="TIFF", save_all=True, append_images=[Image.new("RGB", (4, 4))]
        ),
        "2 pages or frames",
    ),
    "turned tiff": (lambda p: Image.new("RGB", (4, 4)).save(p, format="TIFF", tiffinfo={274: 3}), "stored turned"),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_images_that_would_be_read_wrongly_are_refused(tmp_path, kind):
    make, said = IMAGES[kind]
    make(tmp_path / "a.png")
    with pytest.raises(DataError, match=said):
        opened_image(tmp_path / "a.png")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "LAB"])
def test_other_images_become_rgb(tmp_path, mode):
    form = "TIFF" if mode in ("CMYK", "YCbCr", "LAB") else "PNG"
    Image.new("RGB", (4, 4), (255, 255, 255)).convert(mode).save(tmp_path / "a.png", format=form)
    image = opened_image(tmp_path / "a.png")
    assert image.mode == "RGB" and np.asarray(image).min() >= 254
    rgb16(tmp_path / "b.png")
    as_file(tmp_path / "c.png", np.full((4, 4), 255, np.uint8))
    png(tmp_path / "d.png", np.full((4, 4), 3), 2, 0)  # grey of 2 bits is scaled, which is right for an image
    assert all(np.asarray(opened_image(tmp_path / name)).min() == 255 for name in ("c.png", "d.png"))


def own(root: Path, val: np.ndarray) -> dict:
    for split, values in (("train", np.eye(4, dtype=np.uint8)), ("val", val)):
        trees.picture(root / split / "images" / "a.png", (4, 4))
        (root / split / "labels").mkdir(parents=True)
        as_file(root / split / "labels" / "a.png", values)
    return {"classes": ["a", "b"]}


def test_data_check_finds_a_split_that_judges_nothing(tmp_path):
    args = own(tmp_path, np.full((4, 4), 255, np.uint8))
    assert check.check("folder", str(tmp_path), "train", args=args).faults == []
    (fault,) = check.check("folder", str(tmp_path), "val", args=args).faults
    assert "nothing that is judged lies in 1 validation labels" in fault


def test_one_class_teaches_nothing_and_can_be_judged_by(tmp_path):
    args = own(tmp_path, np.full((4, 4), 1, np.uint8))
    assert check.check("folder", str(tmp_path), "val", args=args).faults == []
    as_file(tmp_path / "train" / "labels" / "a.png", np.ones((4, 4), np.uint8))
    (fault,) = check.check("folder", str(tmp_path), "train", args=args).faults
    assert "is of one class; never there: a" in fault


@pytest.mark.parametrize(("ending", "form"), [(".jpg", "JPEG"), (".avif", "AVIF"), (".jp2", "JPEG2000")])
def test_a_label_with_another_ending_is_found_and_refused(tmp_path, ending, form):
    args = own(tmp_path, np.eye(4, dtype=np.uint8))
    (tmp_path / "val" / "labels" / "a.png").unlink()
    as_file(tmp_path / "val" / "labels" / f"a{ending}", np.eye(16, dtype=np.uint8), format=form)
    with pytest.raises(DataError, match=f"a{ending}: label is stored as {form}, which is lossy"):
        open_dataset("folder", str(tmp_path), "val", (4, 4), **args)[0]


def test_two_labels_of_one_image_are_refused(tmp_path):
    args = own(tmp_path, np.eye(4, dtype=np.uint8))
    as_file(tmp_path / "val" / "labels" / "a.bmp", np.eye(4, dtype=np.uint8))
    with pytest.raises(DataError, match=r"a\.bmp and a\.png are labels of the same image"):
        open_dataset("folder", str(tmp_path), "val", (4, 4), **args)


FORMS = ["PNG", "BMP", "TIFF", "JPEG", "WEBP", "GIF", "JPEG2000", "AVIF", "PPM"]


@st.composite
def label_files(draw) -> tuple[np.ndarray, str, bytes, bool]:
    """Values, the format they are written in, the file's bytes, and whether these are as they were written."""
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    kind = draw(st.sampled_from([np.uint8, np.uint8, np.uint8, np.uint16, np.int32, np.float32, bool]))
    most = draw(st.sampled_from([1, 3, 255]))
    values = np.array(draw(st.lists(st.integers(0, most), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])))
    values = values.reshape(shape).astype(kind)
    form = draw(st.sampled_from(FORMS))
    buffer = io.BytesIO()
    mode = draw(st.sampled_from([None, None, "P", "RGB", "LA", "1"]))
    try:
        image = Image.fromarray(values)
        (image if mode is None else image.convert(mode)).save(buffer, format=form)
    except (OSError, ValueError, KeyError):  # what the format cannot hold
        buffer.write(values.tobytes())
        form = ""
    content = bytearray(buffer.getvalue())
    spoilt = draw(st.sampled_from(["no", "no", "cut", "flip", "more"]))
    at = draw(st.integers(0, len(content) - 1))
    if spoilt == "cut":
        content = content[:at]
    elif spoilt == "flip":
        content[at] ^= 1 << draw(st.integers(0, 7))
    elif spoilt == "more":
        content[at:at] = draw(st.binary(min_size=1, max_size=8))
    plain = spoilt == "no" and mode is None and kind in (np.uint8, bool) and form in ("PNG", "BMP", "TIFF")
    return values, form, bytes(content), plain


@pytest.mark.filterwarnings("ignore")  # Pillow's, about damaged files
@DAMAGED
@given(made=label_files(), classes=st.sampled_from([2, 150, 254]))
def test_whatever_a_label_file_holds_its_ids_or_our_error_come_out(tmp_path, made, classes):
    values, form, content, plain = made
    (tmp_path / "l.png").write_bytes(content)
    trees.picture(tmp_path / "i.png", values.shape)
    pairs = [(tmp_path / "i.png", tmp_path / "l.png")]
    data = Files(pairs, [f"c{k}" for k in range(classes)], [], None, ids_table(classes, [255]))
    valid = bool(((values < classes) | (values == IGNORE)).all())
    try:
        label = data[0][1]
    except EdgepruneError as fault:
        assert not (plain and valid) and "\n" not in str(fault)
        return
    assert label.dtype == np.uint8 and label.shape == values.shape
    assert ((label < classes) | (label == IGNORE)).all() and form in ("PNG", "BMP", "TIFF")
    if plain:
        np.testing.assert_array_equal(label, values)


@DAMAGED
@given(content=st.one_of(st.binary(max_size=60), st.lists(st.integers(-1, 300), max_size=6)), at=st.integers(0, 400))
def test_whatever_a_mat_file_holds(tmp_path, content, at):
    path = tmp_path / "a.mat"
    if isinstance(content, bytes):
        trees.ids(path, [0, 1])
        whole = path.read_bytes()
        path.write_bytes(whole[:at] + content + whole[at + len(content) :])
    else:
        savemat(path, {"S": np.array([content])})
    try:
        assert opened_label(path).mode == "L"
    except EdgepruneError as fault:
        assert "\n" not in str(fault)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.just(10**400),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "bbox", "name"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def or_else(right: object) -> st.SearchStrategy:
    """Mostly what belongs there."""
    return st.just(right) | st.just(right) | st.just(right) | JSON


BOX = st.lists(st.integers(-5, 50) | st.floats() | st.just(10**400), min_size=3, max_size=5)
THING = st.fixed_dictionaries({"image_id": or_else(1), "category_id": or_else(1), "bbox": BOX | or_else([1, 1, 3, 3])})
RECORD = st.fixed_dictionaries({"id": or_else(1), "file_name": or_else("a.png"), "name": or_else("car")})


@DAMAGED
@given(
    content=JSON
    | st.fixed_dictionaries(
        {
            "categories": st.lists(RECORD, max_size=2) | JSON,
            "images": st.lists(RECORD, max_size=2) | JSON,
            "annotations": st.lists(THING, max_size=2) | JSON,
        }
    )
)
def test_whatever_an_annotation_file_of_coco_holds(tmp_path, content):
    trees.picture(tmp_path / "val2017" / "a.png")
    (tmp_path / "annotations").mkdir(exist_ok=True)
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    try:
        data = open_coco_detection(tmp_path, "val", None)
        for index in range(len(data)):
            assert np.isfinite(data[index][1]).all()
    except EdgepruneError as fault:
        assert "\n" not in str(fault)


@DAMAGED
@given(
    text=st.one_of(
        st.text(max_size=60), st.sampled_from(["1", "20", "nan", "inf", "-3", "1e400", "1e100", "", "x", " 7 ", "²"])
    ),
    where=st.sampled_from(["xmax", "ymin", "name", "difficult", "annotation", "head"]),
)
def test_whatever_an_annotation_file_of_voc_holds(tmp_path, text, where):
    parts = {"xmin": "1", "ymin": "1", "xmax": "30", "ymax": "20", "name": "dog", "difficult": "0", where: text}
    box = "".join(f"<{k}>{parts[k]}</{k}>" for k in ("xmin", "ymin", "xmax", "ymax"))
    thing = f"<name>{parts['name']}</name><difficult>{parts['difficult']}</difficult><bndbox>{box}</bndbox>"
    content = f"{parts.get('head', '')}<annotation><object>{thing}</object>{parts.get('annotation', '')}</annotation>"
    (tmp_path / "a.xml").write_text(content, encoding="utf-8", errors="surrogatepass")
    try:
        assert np.isfinite(np.array(boxes_of(tmp_path / "a.xml"), np.float32)).all()
    except EdgepruneError as fault:
        assert "\n" not in str(fault)


@pytest.mark.parametrize("depth", [100_000])
def test_brackets_without_end(tmp_path, depth):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val2017.json").write_text("[" * depth)
    (tmp_path / "a.xml").write_text("<a>" * depth)
    with pytest.raises(DataError, match="cannot be read"):
        open_coco_detection(tmp_path, "val", None)
    with pytest.raises(DataError, match="cannot be read"):
        boxes_of(tmp_path / "a.xml")
