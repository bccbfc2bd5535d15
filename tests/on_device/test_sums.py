"""SHA256SUMS that is not what sha256sum writes is a fault of one line, and runs nothing."""

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


def test_sums_that_are_right(tmp_path):
    (tmp_path / "a b.bin").write_bytes(b"x")
    (tmp_path / "SHA256SUMS").write_text(f"{DIGEST}  a b.bin\n")
    assert manifest.verify(str(tmp_path)) == {"a b.bin": DIGEST}
