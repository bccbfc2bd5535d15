"""The bundle: everything a board needs to build, measure and check the engine without edgeprune or PyTorch."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.files import replace_with, sha256, write_atomic, write_json
from edgeprune.shipped import shipped

SCRIPTS = ("check.py", "engines.py", "score.py")  # a list by name: installers leave compiled files beside scripts
_README = """\
{recipe}@{target}: an engine to build, measure and check on the device itself.

    python3 check.py                  builds, checks, measures; writes result.json
    python3 check.py --help           other backends and precisions

Needs Python 3.8+, numpy and {needs}. Exit status: 0 all gates met, 3 a gate failed, 1 an error.
Bring result.json back to the machine that made this bundle.
"""
_NEEDS = {"tensorrt": "TensorRT's Python module (part of JetPack)", "tensorrt_rtx": "TensorRT for RTX's Python module"}


def write(
    home: Path,
    *,
    graphs: dict[str, Path],
    plan: Path,
    parity: dict[str, np.ndarray],
    calibration: np.ndarray | None,
    about: dict[str, Any],
    scripts: Sequence[Path] = (),
) -> None:
    """Write the bundle's folder, with checksums of every file in it.

    Args:
        graphs: "dense" and "pruned" ONNX files.
        parity: images (N, H, W, 3) uint8, labels (N, ...), dense_answers, pruned_answers (N, ...), and what answers hang on.
        calibration: (M, H, W, 3) uint8 for INT8, or None.
        scripts: further files that the check needs.
    """
    if home.exists():
        shutil.rmtree(home)
    home.mkdir(parents=True)
    for role, path in graphs.items():
        shutil.copyfile(path, home / f"{role}.onnx")
    shutil.copyfile(plan, home / "plan.json")
    for script in SCRIPTS:
        shutil.copyfile(shipped("deploy/on_device") / script, home / script)
    for script in scripts:
        shutil.copyfile(script, home / script.name)
    _arrays(home / "parity.npz", parity)
    if calibration is not None:
        _arrays(home / "calibration.npz", {"images": calibration})
    write_json(home / "about.json", {"schema": 1, **about})
    needs = _NEEDS.get(about["backend"], about["backend"])
    write_atomic(home / "README.txt", _README.format(recipe=about["recipe"], target=about["target"], needs=needs))
    files = sorted(p for p in home.iterdir() if p.is_file())
    write_atomic(home / "SHA256SUMS", "".join(f"{sha256(p)}  {p.name}\n" for p in files))


def _arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    def save(beside: Path) -> None:
        with open(beside, "wb") as handle:
            np.savez_compressed(handle, **arrays)  # type: ignore[arg-type]

    replace_with(path, save)
