"""A bundle as it is copied to a board: whole or refused, signed, run, played; result.zip is what the host reads."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pngs
import pytest
from PIL import Image

from edgeprune import boards
from edgeprune.deploy import bundle as bundling
from edgeprune.deploy import scripts, signing
from edgeprune.devices import replay
from edgeprune.errors import EngineError, UsageError
from edgeprune.runtime.onnxruntime import OnnxRuntimeEngine
from edgeprune.target import Target
from tests.on_device import graphs

CLASSES, PALETTE = ["road", "car", "tree", "sky"], [[128, 64, 128], [0, 0, 142], [107, 142, 35], [70, 130, 180]]
TARGET = {
    "name": "board",
    "title": "b",
    "backend": "tensorrt",
    "device": "GPU",
    "precision": "f32",
    "precisions": ["f32"],
}
needs_keygen = pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="skipped, no ssh-keygen here")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("made")
    paths = {"pruned": graphs.write(home), "dense": graphs.write(home, "dense", seed=1, typed=False)}
    masks = {f"{role}_answers": OnnxRuntimeEngine(path).predict(graphs.IMAGES) for role, path in paths.items()}
    (home / "plan.json").write_text("{}")
    about = {
        "recipe": "small", "task": "segmentation", "target": "board", "backend": "tensorrt", "device": "GPU",
        "threads": 0, "precision": "f32", "classes": CLASSES,
        "input": {"name": "image", "shape": [1, 32, 48, 3], "dtype": "uint8", "order": "RGB"}, "palette": PALETTE,
        "gates": {"miou_drop": 0.5, "pixel_agreement": 0.99, "boundary_drop": 1.0}, "latency_runs": 8,
    }  # fmt: skip
    labels = masks["pruned_answers"].copy()
    labels[:, :4] = 255
    bundling.write(
        home / "bundle", graphs={**paths, "pruned.f16": home / "pruned.f16.onnx"}, engines={}, plan=home / "plan.json",
        parity={"images": graphs.IMAGES, "labels": labels, **masks}, about=about,
    )  # fmt: skip
    return home / "bundle"


@pytest.fixture
def bundle(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "bundle"))


@pytest.fixture(scope="module")
def brought(made, tmp_path_factory) -> tuple[dict[str, Any], bytes]:
    """(what result.json tells, answers.npy) of a run."""
    bundle = Path(shutil.copytree(made, tmp_path_factory.mktemp("ran") / "bundle"))
    assert run(bundle, *ORT, "--seconds", "0").returncode == 0
    with zipfile.ZipFile(bundle / "result.zip") as whole:
        return json.loads(whole.read("result.json")), whole.read("answers.npy")


def run(bundle: Path, *args: str, script: str = "check.py") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, "EDGEPRUNE_LEASE": str(bundle.parent / "lease")}
    command = [str(bundle / script)] if script.endswith(".sh") else [sys.executable, "-B", str(bundle / script)]
    return subprocess.run([*command, *args], capture_output=True, text=True, env=environment)


ORT = ("--backend", "onnxruntime", "--precision", "f32")


def test_run_sh_brings_everything_back(bundle):
    done = run(bundle, *ORT, "--seconds", "0.05", script="run.sh")
    assert done.returncode == 0, done.stderr
    told, masks = replay.read(bundle / "result.zip")
    assert told["graphs"]["pruned"] == replay.sha256(bundle / "pruned.onnx") and masks.shape == (3, 32, 48)
    assert set(told["boundaries"]["pruned"]["boundaries"]) == {"engine", "image to mask", "paced"}
    assert told["boundaries"]["dense"]["settings"]["spin_wait"] is False and told["latency"]["count"] == 8
    assert "not judged here: boundary_drop" in done.stdout and told["during"]["throttled"] == []
    board = replay.Replay(Target.model_validate(TARGET), bundle / "result.zip")
    graphs_of = {role: bundle / f"{role}.onnx" for role in ("pruned", "dense")}
    assert "ran in onnxruntime, and board means tensorrt" in str(board.unfit(graphs_of, "f32")), (
        "a laptop's milliseconds"
    )
    brought = replay.Replay(Target.model_validate(TARGET | {"backend": "onnxruntime"}), bundle / "result.zip")
    assert brought.unfit({"pruned": bundle / "pruned.onnx", "dense": bundle / "dense.onnx"}, "f32") is None
    assert "dense network is another one" in str(brought.unfit({"dense": bundle / "pruned.onnx"}, "f32"))
    assert "asks for f16" in str(brought.unfit({}, "f16"))
    for change, said in (
        ({"device": "CPU"}, "it ran on GPU, and board means CPU"),
        ({"threads": 2}, "it ran on 0 threads, and board means 2"),
    ):
        other = replay.Replay(
            Target.model_validate(TARGET | {"backend": "onnxruntime"} | change), bundle / "result.zip"
        )
        assert said in str(other.unfit(graphs_of, "f32"))
    engine = brought.build(bundle / "pruned.onnx", bundle, "f32")
    assert np.array_equal(engine.predict(graphs.IMAGES[1:]), masks[1:])
    with pytest.raises(EngineError, match="an image of this run is not in it"):
        engine.predict(graphs.IMAGES[:1] ^ 1)
    again = run(bundle, *ORT, "--seconds", "0")
    assert again.returncode == 0 and "engine  " not in again.stdout


@pytest.mark.parametrize("name", ["pruned.onnx", "about.json", "score.py", "MANIFEST.json", "parity.npz"])
def test_a_changed_byte_is_refused(bundle, name):
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(bytes(content))
    for script in ("check.py", "run.sh", "play.py"):
        done = run(bundle, *(("--source", str(bundle)) if script == "play.py" else ORT), script=script)
        assert done.returncode == 1 and name in done.stderr + done.stdout and "Traceback" not in done.stderr
    with pytest.raises(EngineError, match="damaged"):
        signing.check(bundle)


def test_a_file_that_python_would_import_is_refused(bundle):
    (bundle / "onnxruntime.py").write_text("raise SystemExit('owned')")
    done = run(bundle, *ORT)
    assert done.returncode == 1 and "onnxruntime.py is no part of the bundle" in done.stderr


@pytest.mark.parametrize("name", ["__pycache__/frames.cpython-312.pyc", "pruned.f16.engine", "dense.int8.onnx"])
def test_what_would_be_run_in_a_files_place_is_refused(bundle, name):
    (bundle / name).parent.mkdir(exist_ok=True)
    (bundle / name).write_bytes(b"owned")
    with pytest.raises(EngineError, match=f"{name.split('/')[0]} is no part of the bundle"):
        signing.check(bundle)
    done = run(bundle, *ORT)
    assert done.returncode == 1 and "is no part of the bundle" in done.stderr


def test_code_in_a_folder_and_links_are_refused(bundle, tmp_path):
    """Python takes a folder without __init__ for a package, and a compiled file for a module, wherever they lie beside a script."""
    for name in ("numpy/__init__.pyc", "engines/__init__.pyc", "PIL/Image.py", "engines/deep/a.so"):
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_bytes(b"owned")
        with pytest.raises(
            EngineError, match=f"{name.split('/')[0]} is no part of the bundle, and Python would import it"
        ):
            signing.check(bundle)
        done = run(bundle, *ORT, script="run.sh")
        assert done.returncode == 1 and f"{name} is no part of the bundle" in done.stderr
        (bundle / name).unlink()
    (tmp_path / "victim").write_text("mine")
    (bundle / "result.json.part").symlink_to(tmp_path / "victim")
    with pytest.raises(EngineError, match="is a link"):
        signing.check(bundle)
    assert run(bundle, *ORT, script="run.sh").returncode == 1 and (tmp_path / "victim").read_text() == "mine"


def test_a_bundle_that_was_run_by_hand_can_be_run_again(bundle):
    """Not by run.sh and its -B: python3 check.py, as the docs have it."""
    environment = {**os.environ, "EDGEPRUNE_LEASE": str(bundle.parent / "lease")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    for script in ("check.py", "check.py", "doctor.py"):
        line = [
            sys.executable,
            str(bundle / script),
            *(ORT if script == "check.py" else ()),
            *(["--seconds", "0"] if script == "check.py" else []),
        ]
        subprocess.run(line, capture_output=True, env=environment, check=script == "check.py")
    signing.check(bundle)


def test_engines_of_a_signed_bundle_are_its_users(bundle, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    manifest = scripts.script("manifest")
    assert manifest.engines_home(str(bundle), None) == str(bundle / "engines")
    assert Path(manifest.engines_home(str(bundle), "signers")).is_relative_to(tmp_path / ".cache")


@pytest.mark.parametrize(
    "change",
    [
        lambda told: {k: v for k, v in told.items() if k != "device"}, lambda told: [], lambda told: {"schema": 3},
        lambda told: told | {"image_sums": None}, lambda told: told | {"graphs": None},
    ],
    ids=["a part is missing", "a list", "nothing in it", "no sums", "no graphs"],
)  # fmt: skip
def test_a_result_of_another_form_is_one_line(brought, tmp_path, change):
    told, answers = brought
    with zipfile.ZipFile(tmp_path / "odd.zip", "w") as odd:
        odd.writestr("result.json", json.dumps(change(told)))
        odd.writestr("answers.npy", answers)
    with pytest.raises(EngineError, match="not a result of this program's bundles"):
        replay.read(tmp_path / "odd.zip")


def test_a_result_that_claims_more_than_it_holds_is_one_line(brought, tmp_path):
    with zipfile.ZipFile(tmp_path / "odd.zip", "w") as odd:
        odd.writestr("result.json", json.dumps(brought[0]))
        with odd.open("answers.npy", "w") as answers:
            header = {"descr": "|u1", "fortran_order": False, "shape": (1 << 17, 1 << 17, 1 << 17)}
            np.lib.format.write_array_header_1_0(answers, header)
    with pytest.raises(EngineError, match=r"no whole result\.zip"):
        replay.read(tmp_path / "odd.zip")


def test_masks_never_take_the_images_place(bundle, tmp_path):
    (tmp_path / "own").mkdir()
    Image.fromarray(np.zeros((32, 48, 3), np.uint8)).save(tmp_path / "own" / "000.png")
    before = (tmp_path / "own" / "000.png").read_bytes()
    done = run(bundle, "--source", str(tmp_path / "own"), "--out", str(tmp_path / "own"), script="play.py")
    assert done.returncode == 1 and "is where the images lie" in done.stderr + done.stdout
    one = ("--source", str(tmp_path / "own" / "000.png"), "--out", str(tmp_path / "own"))
    done = run(bundle, *one, script="play.py")
    assert done.returncode == 1 and "is where the images lie" in done.stderr + done.stdout
    assert (tmp_path / "own" / "000.png").read_bytes() == before
    np.save(tmp_path / "own" / "000.npy", np.ones((32, 48, 3), np.uint8))
    done = run(bundle, "--source", str(tmp_path / "own"), "--out", str(tmp_path / "out"), *ORT, script="play.py")
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"000.npy.png", "000.png.png"}, (
        "one would take the other's place"
    )


def test_a_result_of_another_board_is_not_the_targets(bundle, brought, tmp_path):
    told, answers = brought
    catalogue = {"chip": "x", "module": "AGX Orin", "source": "none"}
    target = Target.model_validate(TARGET | {"backend": "onnxruntime", "catalogue": catalogue})
    nano = "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    for board, dla, said in (
        (nano, None, "is no AGX Orin, which board means"),
        ("NVIDIA Jetson AGX Orin Developer Kit", None, None),
        ("a carrier", None, None),
        (None, 0, "on core 0 of the DLA"),
    ):
        changed = told | {"device": told["device"] | {"board": board}, "ran_on": told["ran_on"] | {"dla": dla}}
        with zipfile.ZipFile(tmp_path / "result.zip", "w") as whole:
            whole.writestr("result.json", json.dumps(changed))
            whole.writestr("answers.npy", answers)
        graphs_of = {role: bundle / f"{role}.onnx" for role in ("pruned", "dense")}
        found = replay.Replay(target, tmp_path / "result.zip").unfit(graphs_of, "f32")
        assert (said in str(found)) if said else found is None, found


def test_the_manifest_says_what_made_it(made):
    told = json.loads((made / "MANIFEST.json").read_text())
    assert {"torch", "onnx", "python"} <= told["made_with"].keys() and told["files"]["pruned.onnx"]["bytes"] > 0
    assert set(bundling.SCRIPTS) <= told["files"].keys() and os.access(made / "run.sh", os.X_OK)


@needs_keygen
def test_signatures(bundle, tmp_path, monkeypatch):
    for name in ("mine", "other"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True)
    lines = {n: f"{n}@example.com {(tmp_path / f'{n}.pub').read_text()}" for n in ("mine", "other")}
    (tmp_path / "signers").write_text(lines["mine"])
    (tmp_path / "others").write_text(lines["other"])
    refused = run(bundle, *ORT, "--signers", str(tmp_path / "signers"))
    assert refused.returncode == 1 and "the bundle is not signed" in refused.stderr
    monkeypatch.chdir(bundle)
    archive = signing.sign(Path(), tmp_path / "mine")
    with tarfile.open(archive) as whole:
        assert {n.split("/")[0] for n in whole.getnames()} == {bundle.parent.name}
    (bundle / "allowed").write_text(lines["mine"])  # whoever made the bundle would say who may sign it
    with pytest.raises(EngineError, match="lies in the bundle"):
        signing.check(bundle, Path("allowed"))
    (bundle / "allowed").unlink()
    assert archive.parent == bundle.parent and (bundle / "SHA256SUMS.sig").exists()
    signing.check(bundle, tmp_path / "signers")
    signing.check(bundle, tmp_path / "signers", "mine@example.com")
    assert run(bundle, *ORT, "--seconds", "0", "--signers", str(tmp_path / "signers")).returncode == 0
    for signers, who in (("others", None), ("signers", "other@example.com"), ("nobody", None)):
        with pytest.raises(EngineError, match="signature is not good|no such file"):
            signing.check(bundle, tmp_path / signers, who)
    moved = Path(shutil.copytree(bundle, bundle.parent / "engines" / "b"))
    (moved / "engines").mkdir()
    (moved / "engines" / "pruned.plan").write_bytes(b"of this machine")
    with tarfile.open(signing.sign(moved, tmp_path / "mine")) as whole:
        assert "engines/about.json" in whole.getnames() and "engines/engines" not in whole.getnames()
    sums = bundle / "SHA256SUMS"
    sums.write_text(sums.read_text() + "\n")  # the sums hold still, the signature does not
    with pytest.raises(EngineError, match="signature is not good"):
        signing.check(bundle, tmp_path / "signers")
    with pytest.raises(UsageError, match="no such key"):
        signing.sign(bundle, tmp_path / "none")


def test_run_engine_over_a_folder(bundle, tmp_path, cli):
    (tmp_path / "images").mkdir()
    Image.fromarray(graphs.IMAGES[0]).save(tmp_path / "images" / "a.png")
    np.save(tmp_path / "images" / "b.npy", graphs.IMAGES[1].repeat(2, 0).repeat(2, 1))
    (tmp_path / "images" / "c.ppm").write_bytes(b"P6\n# a comment\n48 32\n255\n" + graphs.IMAGES[2].tobytes())
    told = ("--source", str(tmp_path / "images"), "--out", str(tmp_path / "masks"), *ORT)
    code, _, err = cli("run-engine", str(bundle), *told)
    assert code == 0, err
    with np.load(bundle / "parity.npz") as kept:
        masks = kept["pruned_answers"]
    for name, mask in (("a", masks[0]), ("c", masks[2])):
        found = Image.open(tmp_path / "masks" / f"{name}.png")
        assert np.array_equal(np.array(found), mask) and found.getpalette()[3:6] == PALETTE[1]
    assert np.array(Image.open(tmp_path / "masks" / "b.png")).shape == (32, 48)
    done = run(bundle, *told, "--overlay", "--most", "1", script="play.py")
    assert done.returncode == 0 and "1 images:" in done.stdout and "a second" in done.stdout
    assert Image.open(tmp_path / "masks" / "a.png").mode == "RGB"
    for source, said in (("nothing.mp4", "no such file"), (str(tmp_path), "holds no images")):
        done = run(bundle, "--source", source, *ORT, script="play.py")
        assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr
    (bundle / "dense.onnx").write_bytes(b"x")
    code, _, err = cli("run-engine", str(bundle), *told)
    assert code == 1 and "dense.onnx is damaged" in err


def test_run_engine_of_a_signed_bundle_takes_no_engine_that_nobody_signed(bundle, tmp_path, cli, monkeypatch):
    asked: list[list[str]] = []
    monkeypatch.setattr(signing, "check", lambda *_: None)
    monkeypatch.setattr(
        boards.subprocess, "run", lambda line, check: asked.append(line) or subprocess.CompletedProcess(line, 0)
    )
    monkeypatch.chdir(tmp_path)
    assert cli("run-engine", str(bundle), "--source", "x", "--signers", "allowed")[0] == 0
    told = dict(zip(asked[0], asked[0][1:], strict=False))
    assert told["--signers"] == str(tmp_path / "allowed"), "play.py then keeps engines with its user"


def test_run_engine_over_a_video(bundle, tmp_path):
    av = pytest.importorskip("av", reason="skipped, no PyAV")
    with av.open(str(tmp_path / "v.mp4"), "w") as out:
        stream = out.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for image in graphs.IMAGES:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(stream.encode())
    done = run(bundle, "--source", str(tmp_path / "v.mp4"), "--out", str(tmp_path / "m"), *ORT, script="play.py")
    assert done.returncode == 0 and len(list((tmp_path / "m").glob("*.png"))) == 3, done.stderr


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_png_without_a_library(tmp_path, mode):
    smooth = np.add.outer(np.arange(37), np.arange(53))[..., None] + np.array(
        [0, 40, 90]
    )  # so that every filter is used
    image = Image.fromarray(smooth.astype(np.uint8)).convert(mode)
    image.save(tmp_path / "i.png")
    assert np.array_equal(pngs.read(str(tmp_path / "i.png")), np.array(image.convert("RGB")))
    noise = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    pngs.write(str(tmp_path / "o.png"), noise)
    assert np.array_equal(np.array(Image.open(tmp_path / "o.png")), noise)
    (tmp_path / "bad.png").write_bytes((tmp_path / "i.png").read_bytes()[:60])
    with pytest.raises(ValueError, match="bad.png"):
        pngs.read(str(tmp_path / "bad.png"))


def test_results_that_are_none(tmp_path, cli):
    path = tmp_path / "result.zip"
    code, _, err = cli("verify", "--result", str(path))
    assert code == 2 and "no such file" in err
    path.write_bytes(b"PK\x03\x04 cut")
    code, _, err = cli("verify", "--result", str(path))
    assert code == 1 and "copy it again" in err
    with pytest.raises(EngineError, match="no whole result.zip"):
        replay.read(path)
