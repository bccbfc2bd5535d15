"""What a checkpoint file is, told from its first bytes: whole ones pass whatever they are called, others get one right line."""

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from edgeprune.checkpoint_file import _LEGACY, checkpoint_format
from edgeprune.errors import CheckpointError, EdgepruneError

WEIGHTS = {"a.weight": torch.ones(3, 2), "a.bias": torch.zeros(3)}


def legacy(path: Path) -> None:
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=False)


def packed(path: Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.bin", "w"])
def test_the_content_says_what_a_file_is_and_not_its_name(tmp_path, name):
    save_file(WEIGHTS, tmp_path / name)
    assert checkpoint_format(tmp_path / name) == "safetensors"
    torch.save(WEIGHTS, tmp_path / name)
    assert checkpoint_format(tmp_path / name) == "torch"
    legacy(tmp_path / name)
    assert checkpoint_format(tmp_path / name) == "torch"


OTHERS = {
    "empty.pt": (lambda p: p.touch(), "is empty"),
    "empty.safetensors": (lambda p: p.touch(), "is empty"),
    "pointer.safetensors": (
        lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid 1\n"),
        "git lfs pull",
    ),
    "page.pth": (lambda p: p.write_text("\n<!DOCTYPE html><html>no such file</html>"), "HTML page"),
    "page.safetensors": (lambda p: p.write_text("<html><body>sign in</body></html>"), "HTML page"),
    "keras.h5": (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)), "HDF5"),
    "net.keras": (lambda p: packed(p, "config.json", "model.weights.h5"), "a Keras model"),
    "model.safetensors.index.json": (
        lambda p: p.write_text(json.dumps({"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}})),
        "in several files beside it",
    ),
    "config.json": (lambda p: p.write_text('{"depth": 50}'), "a JSON file"),
    "net.onnx": (lambda p: p.write_bytes(b"\x08\x08\x12\x07pytorch" + bytes(50)), "an ONNX graph"),
    "onnx.pt": (lambda p: p.write_bytes(b"\x08\x0a\x12\x07pytorch" + bytes(50)), "an ONNX graph"),
    "script.pt": (lambda p: torch.jit.save(torch.jit.script(nn.Linear(2, 2)), p), "a TorchScript archive"),
    "program.pt2": (lambda p: packed(p, "e/archive_format", "e/models/model.json"), "torch.export"),
    "files.zip": (
        lambda p: packed(p, "best.pth", "readme.txt"),
        r"without a torch file in it \(best.pth, readme.txt\)",
    ),
    "weights.npz": (lambda p: np.savez(p, a=np.ones(2)), r"without a torch file in it \(a.npy\)"),
    "w.pth.gz": (lambda p: p.write_bytes(b"\x1f\x8b\x08" + bytes(20)), "unpack it first"),
    "dict.pkl": (lambda p: p.write_bytes(pickle.dumps({"a": 1})), "a Python pickle"),
    "net.xml": (lambda p: p.write_text("<?xml version='1.0'?><net/>"), "an XML file"),
    "junk.pt": (lambda p: p.write_text("junk\n"), "neither safetensors nor a torch file"),
    "cut.pt": (lambda p: p.write_bytes(b"PK\x03\x04garbage"), "not a whole checkpoint"),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("name", OTHERS)
def test_other_files_are_named_in_one_line(tmp_path, name):
    make, said = OTHERS[name]
    make(tmp_path / name)
    with pytest.raises(CheckpointError, match=said) as fault:
        checkpoint_format(tmp_path / name)
    assert "\n" not in str(fault.value) and str(fault.value).startswith(f"{tmp_path / name}: ")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_file_that_was_cut_off_is_no_checkpoint(tmp_path, name, kept):
    path = tmp_path / name
    save_file({"a": torch.ones(500)}, path) if path.suffix == ".safetensors" else torch.save(WEIGHTS, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(CheckpointError, match="is not a whole checkpoint"):
        checkpoint_format(path)


@pytest.mark.parametrize("end", ["1e999", "Infinity", "1.5", "-1", '"8"', "null", "[8]"])
def test_a_header_whose_offsets_are_no_length(tmp_path, end):
    header = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,%s]}}' % end.encode()
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(CheckpointError, match="is not a whole checkpoint"):
        checkpoint_format(tmp_path / "w.safetensors")


def test_folders(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"name a file in it, such as model\.safetensors"):
        checkpoint_format(tmp_path)
    (tmp_path / "__0_0.distcp").touch()
    with pytest.raises(CheckpointError, match="dcp_to_torch"):
        checkpoint_format(tmp_path)
    with pytest.raises(CheckpointError, match="no such checkpoint file"):
        checkpoint_format(tmp_path / "nowhere.pt")


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.sampled_from(
        [b"", b"PK\x03\x04", b"\x80\x02", b"{", b"<", b"\x10" + bytes(7) + b"{", b"\x89HDF\r\n", b"\x08"]
    ),
    rest=st.binary(max_size=80),
    name=st.sampled_from(["w.pt", "w.safetensors", "w.onnx"]),
)
def test_any_bytes_end_in_our_error(tmp_path, start, rest, name):
    (tmp_path / name).write_bytes(start + rest)
    if (start + rest).startswith(_LEGACY):  # what old versions of torch wrote begins so, and no more is looked at
        assert checkpoint_format(tmp_path / name) == "torch"
        return
    with pytest.raises(EdgepruneError) as fault:
        checkpoint_format(tmp_path / name)
    assert "\n" not in str(fault.value)
