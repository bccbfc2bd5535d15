"""What is the same data, and what is not."""

import shutil

import numpy as np
import pytest
from PIL import Image

from edgeprune import files
from edgeprune.errors import DataError, EdgepruneError
from edgeprune.files import files_below, hash_tree


@pytest.fixture
def data(tmp_path):
    draws = np.random.default_rng(0)
    (tmp_path / "data/labels").mkdir(parents=True)
    for index in range(4):
        Image.fromarray(draws.integers(0, 11, (60, 80), dtype=np.uint8)).save(tmp_path / f"data/labels/{index}.png")
    return tmp_path / "data"


def test_a_copy_of_the_data_made_later_is_the_same_data(data, tmp_path):
    shutil.copytree(data, tmp_path / "copy", copy_function=shutil.copyfile)
    assert hash_tree(tmp_path / "copy") == hash_tree(data)


def test_data_put_together_of_links_is_seen_once_and_whole(data, tmp_path):
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/labels").symlink_to(data / "labels")
    (data / "labels/up").symlink_to(data)  # a ring
    before = hash_tree(tmp_path / "linked")
    assert sorted(p.name for p in files_below(tmp_path / "linked")) == ["0.png", "1.png", "2.png", "3.png"]
    (data / "labels/3.png").unlink()
    assert hash_tree(tmp_path / "linked") != before


def test_data_that_is_not_there_is_no_data(tmp_path):
    for place in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DataError, match="holds no files"):
            hash_tree(place)


@pytest.mark.parametrize("change", ["one label", "a name", "a file less", "two files swapped"])
def test_other_data_is_told_apart(data, change):
    before, path = hash_tree(data), data / "labels/2.png"
    if change == "one label":  # the size of a stored, incompressible picture stays about the same
        labels = np.array(Image.open(path))
        labels[3, 4] = (labels[3, 4] + 1) % 11
        Image.fromarray(labels).save(path)
    elif change == "a name":
        path.rename(path.with_name("5.png"))
    elif change == "a file less":
        path.unlink()
    else:
        other = path.with_name("3.png")
        path.rename(data / "between"), other.rename(path), (data / "between").rename(other)
    assert hash_tree(data) != before


def test_a_full_disk_is_told_as_one(tmp_path, monkeypatch):
    """safetensors and torch have errors of their own for it."""
    monkeypatch.setattr(files, "is_full", lambda folder: True)

    def write(beside):
        beside.write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 171712 vs 171604")

    with pytest.raises(EdgepruneError, match=r"disk full: cannot write .*w\.pt"):
        files.replace_with(tmp_path / "w.pt", write)
    monkeypatch.setattr(files, "is_full", lambda folder: False)
    with pytest.raises(RuntimeError):
        files.replace_with(tmp_path / "w.pt", write)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(EdgepruneError, match="cannot write .*choose another --runs-dir"),
        files.lock(tmp_path / "file" / "run"),
    ):
        pass
