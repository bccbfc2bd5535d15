"""The bundle: everything a board needs to build, measure and check the engine without edgeprune or PyTorch."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import edgeprune
from edgeprune.files import replace_with, sha256, write_atomic, write_json
from edgeprune.shipped import shipped

SCRIPTS = (  # a list by name: installers leave compiled files beside scripts
    "run.sh", "isolate.py", "check.py", "doctor.py", "play.py", "frames.py", "pngs.py", "engines.py", "trt.py",
    "trt_build.py", "cuda_runtime.py", "layers.py", "identity.py", "measuring.py", "board.py", "tegrastats.py",
    "clocks.py", "lease.py", "saying.py", "jetpack.py", "manifest.py", "score.py",
)  # fmt: skip
_README = """\
{recipe}@{target}: an engine to build, measure and check on the device itself.

    ./run.sh                          builds, checks, measures; writes result.json and result.zip
    ./run.sh --help                   other backends and precisions, locked clocks, signatures
    python3 doctor.py                 what is missing here, in plain words
    python3 play.py --source FOLDER   runs the engine over images, a video or a camera (segmentation)

Needs Python 3.8+, numpy and {needs}. Exit status: 0 all gates met, 3 a gate failed, 1 an error.
Bring result.zip back to the machine that made this bundle: edgeprune verify --result result.zip
"""
_NEEDS = {"tensorrt": "TensorRT's Python module (part of JetPack)", "tensorrt_rtx": "TensorRT for RTX's Python module"}
_MADE_WITH = ("torch", "numpy", "onnx", "onnxscript", "onnxsim", "onnxruntime")


def write(
    home: Path,
    *,
    graphs: dict[str, Path],
    engines: dict[str, Path],
    plan: Path,
    parity: dict[str, np.ndarray],
    about: dict[str, Any],
    scripts: Sequence[Path] = (),
) -> None:
    """Write the bundle's folder: `MANIFEST.json` says what made it, `SHA256SUMS` covers every file of it.

    Args:
        graphs: "dense" and "pruned" ONNX files, and those with another precision inside ("dense.f16", "pruned.f16").
        engines: those that were built ahead for the device, by their graphs' names; empty where it builds its own.
        parity: images (N, H, W, 3) uint8, labels (N, ...), dense_answers, pruned_answers (N, ...), and what answers hang on.
        scripts: further files that the task's check needs.
    """
    if home.exists():
        shutil.rmtree(home)
    home.mkdir(parents=True)
    for name, path in graphs.items():
        shutil.copyfile(path, home / f"{name}.onnx")
    for name, path in engines.items():
        shutil.copyfile(path, home / f"{name}{path.suffix}")
    shutil.copyfile(plan, home / "plan.json")
    for script in SCRIPTS:
        shutil.copyfile(shipped("deploy/on_device") / script, home / script)
    for path in scripts:
        shutil.copyfile(path, home / path.name)
    (home / "run.sh").chmod(0o755)
    _arrays(home / "parity.npz", parity)
    write_json(home / "about.json", {"schema": 2, **about})
    needs = _NEEDS.get(about["backend"], about["backend"])
    write_atomic(home / "README.txt", _README.format(recipe=about["recipe"], target=about["target"], needs=needs))
    files = sorted(p for p in home.iterdir() if p.is_file())
    made = {name: version(name) for name in _MADE_WITH} | {"python": platform.python_version()}
    write_json(
        home / "MANIFEST.json",
        {
            "schema": 1, "edgeprune": edgeprune.__version__, "recipe": about["recipe"], "target": about["target"], "made_with": made,
            "files": {p.name: {"sha256": sha256(p), "bytes": p.stat().st_size} for p in files},
        },
    )  # fmt: skip
    files = sorted([*files, home / "MANIFEST.json"])
    write_atomic(home / "SHA256SUMS", "".join(f"{sha256(p)}  {p.name}\n" for p in files))


def _arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    def save(beside: Path) -> None:
        with open(beside, "wb") as handle:
            np.savez_compressed(handle, **arrays)  # type: ignore[arg-type]

    replace_with(path, save)
