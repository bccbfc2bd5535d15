"""SHA256SUMS that is not what sha256sum writes, or does not list all that lies there, is a fault of one line, and runs nothing."""

import hashlib

import pytest

from edgeprune.deploy.scripts import script

manifest = script("manifest")
DIGEST = hashlib.sha256(b"x").hexdigest()


@pytest.mark.parametrize(
    "text",
    [b"word", b"word\n", DIGEST.encode(), b"  \n", b"abc  a.bin\n", f"{DIGEST}  \n".encode(), f"{DIGEST}  a.bin\nword".encode(),
     b"\xff\xfe\x00", b"{}", b"\x00" * 70],
)  # fmt: skip
def test_sums_that_are_none(tmp_path, text):
    (tmp_path / "a.bin").write_bytes(b"x")
    (tmp_path / "SHA256SUMS").write_bytes(text)
    with pytest.raises(manifest.Fault, match=r"SHA256SUMS:[12]: is no line of checksums"):
        manifest.verify(str(tmp_path))


def test_a_folder_of_that_name(tmp_path):
    (tmp_path / "SHA256SUMS").mkdir()
    with pytest.raises(manifest.Fault, match="SHA256SUMS is missing"):
        manifest.verify(str(tmp_path))


@pytest.fixture
def bundle(tmp_path):
    """The least that a bundle holds, and a file whose name has a space."""
    names = [*manifest._LEAST, "a b.bin"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "SHA256SUMS").write_text("".join(f"{DIGEST}  {name}\n" for name in names))
    return tmp_path


def test_sums_that_are_right(bundle):
    (bundle / "engines").mkdir()
    for name in ("result.json", "result.zip", "engines/pruned.engine", "SHA256SUMS.sig"):
        (bundle / name).write_bytes(b"made here")
    assert manifest.verify(str(bundle))["a b.bin"] == DIGEST


@pytest.mark.parametrize("kept", [0, 1, 3, len(manifest._LEAST) - 1])
def test_sums_that_were_cut_at_a_lines_end(bundle, kept):
    lines = (bundle / "SHA256SUMS").read_text().splitlines(keepends=True)
    (bundle / "SHA256SUMS").write_text("".join(lines[:kept]))
    with pytest.raises(manifest.Fault, match=f"does not list {manifest._LEAST[kept]}"):
        manifest.verify(str(bundle))


@pytest.mark.parametrize("name", ["extra.npz", "README.txt", "gates.json", "results", "x.SHA256SUMS.sig"])
def test_a_file_that_is_not_listed(bundle, name):
    (bundle / name).write_bytes(b"x")
    with pytest.raises(manifest.Fault, match=f"{name} is no part of the bundle"):
        manifest.verify(str(bundle))
