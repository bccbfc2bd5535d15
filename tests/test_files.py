"""What is the same data, and what is not."""

import errno
import json
import os
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from edgeprune import files
from edgeprune.errors import DataError, EdgepruneError, RecipeError
from edgeprune.files import files_below, hash_tree
from edgeprune.recipe import check_files, load_recipe
from edgeprune.stages import results


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


FULL = {  # what writers say of a full disk, most of them with megabytes free again by then
    "Python": OSError(errno.ENOSPC, "No space left on device"),
    "a quota": OSError(errno.EDQUOT, "Disk quota exceeded"),
    "safetensors": Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
    "safetensors 0.4": Exception('IoError(Os { code: 28, kind: StorageFull, message: "..." })'),
    "torch, legacy": RuntimeError("write(): fd 3 failed with No space left on device"),
    "OpenVINO": RuntimeError("basic_ios::clear: iostream error"),
}


@pytest.mark.parametrize("writer", FULL)
def test_a_full_disk_is_told_as_one(tmp_path, writer):
    def write(path):
        path.write_text("some of it")
        raise FULL[writer]

    with pytest.raises(EdgepruneError, match=r"disk full: cannot write .*w\.pt; free some space"):
        files.replace_with(tmp_path / "w.pt", write)
    assert not list(tmp_path.iterdir())


def test_a_writer_that_says_nothing_of_a_full_disk(tmp_path, monkeypatch):
    """PyTorch: "unexpected pos 704 vs 598"."""

    def write(path):
        raise RuntimeError("unexpected pos 704 vs 598")

    with pytest.raises(RuntimeError, match="unexpected pos"):
        files.replace_with(tmp_path / "w.pt", write)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: SimpleNamespace(free=4096))
    with pytest.raises(EdgepruneError, match="disk full"):
        files.replace_with(tmp_path / "w.pt", write)


def test_what_else_keeps_from_writing_is_told_by_its_name(tmp_path):
    def write(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    with pytest.raises(EdgepruneError, match=r"cannot write .*w\.pt: Permission denied"):
        files.replace_with(tmp_path / "w.pt", write)


def test_a_disk_that_is_really_full(tmp_path):
    """8 MB of memory as a disk, where that may be mounted; 16 MB of weights, by both writers."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", disk], capture_output=True).returncode
    ):
        pytest.skip("skipped, nothing may be mounted here")
    try:
        big = {"a": torch.zeros(4_000_000)}
        with pytest.raises(EdgepruneError, match="disk full"):
            files.save_tensors(disk / "a.safetensors", big)
        with pytest.raises(EdgepruneError, match="disk full"):
            files.replace_with(disk / "a.pt", lambda beside: torch.save(big, beside))
        files.save_tensors(disk / "b.safetensors", {"a": torch.zeros(4)})
        assert [p.name for p in disk.iterdir()] == ["b.safetensors"]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(EdgepruneError, match="cannot write .*choose another --runs-dir"),
        files.lock(tmp_path / "file" / "run"),
    ):
        pass


def test_a_file_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(EdgepruneError, match=r"^cannot write .*a\.json: (Not a directory|File exists)"):
        files.write_json(tmp_path / "file" / "prune" / "a.json", {})
    with pytest.raises(EdgepruneError, match=r"^cannot write .*w\.safetensors: (Not a directory|File exists)"):
        files.save_tensors(tmp_path / "file" / "w.safetensors", {"a": torch.zeros(1)})


def test_a_full_disk_is_told_by_the_lock_and_by_what_is_set_aside(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "old.json").write_text("{}")
    monkeypatch.setattr(files.os, "getpid", full)
    with pytest.raises(EdgepruneError, match=r"^disk full: cannot write .*\.lock"), files.lock(tmp_path):
        pass
    monkeypatch.undo()
    monkeypatch.setattr(results.Path, "replace", full)
    with pytest.raises(EdgepruneError, match=r"^disk full: cannot write .*old\.json"), results.set_aside(tmp_path, "k"):
        pass


def test_data_that_may_not_be_read_is_one_line(tmp_path, monkeypatch):
    """Root may read everything, so the system's answer is made up."""

    def denied(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    (tmp_path / "a").touch()
    for module, name in ((files.os, "listdir"), (files.Path, "is_file"), (files.Path, "stat")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, denied)
            patch.setattr(files.Path, "is_dir", lambda path: True)
            with pytest.raises(DataError, match=r"^data\.root: .* cannot be read \(Permission denied\)$"):
                hash_tree(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(files.Path, "iterdir", denied)
        with pytest.raises(RecipeError, match=r"^data\.root: .* cannot be read \(Permission denied\)$"):
            check_files(load_recipe("segnet_cap", [f"data.root={tmp_path}"]))


@pytest.mark.parametrize("text", [r'"\ud800"', r'{"\udfff": 1}', r'[{"a": ["x\ud83d"]}]', "[" * 101 + "]" * 101,
                                  '{"a":' * 101 + "1" + "}" * 101, '{"a":[' * 60 + "1" + "]}" * 60])  # fmt: skip
def test_json_that_could_not_be_written_again_is_refused(text):
    with pytest.raises(ValueError, match="not Unicode|nested too deeply"):
        files.parse_json(text.encode())


@pytest.mark.parametrize("text", [r'"\ud83d\ude00"', r'"\\ud800"', "[" * 100 + "]" * 100, '{"ü": "€"}'])
def test_json_that_is_right(text):
    assert files.parse_json(text.encode()) == json.loads(text)
