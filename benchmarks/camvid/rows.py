"""One row of the study: a normal run of edgeprune (or of an opponent's prune stage within one), and what is kept of it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import opponents
import study
import torch
from rich.console import Console

from edgeprune import models, pipeline
from edgeprune.compatible import check_pair
from edgeprune.data import open_dataset
from edgeprune.data.transforms import normalised
from edgeprune.deploy import fair
from edgeprune.errors import RunLockedError
from edgeprune.files import hash_obj, read_json, sha256
from edgeprune.prune.artefact import load_pruned
from edgeprune.recipe import Recipe
from edgeprune.target import Target

SCHEMA = 1
SHOWN = 2  # images whose masks are kept, small, for the page


def where(scale: str | None, results: Path | None) -> tuple[str, Path]:
    """The scale's name, by default that of the results' folder or this machine's, and the folder."""
    told = study.PLACES.get(results.name) if results else None
    name = scale or (told[0] if told else "gpu" if torch.cuda.is_available() else "cpu")
    return name, results or Path(__file__).parent / "results" / name


def dense(scale: study.Scale, row: study.Row, root: str, target: Target, runs: Path, console: Console) -> str:
    """The dense network's weights, trained once a network and seed."""
    document = study.recipe(scale, row._replace(entry="random"), root, None)
    key = hash_obj([document[k] for k in ("seed", "model", "data", "train")])[:8]
    recipe = Recipe.model_validate({**document, "name": f"{row.network}-dense-seed{row.seed}-{key}"})
    while True:
        try:
            return str(pipeline.dense(recipe, target, runs, console).resolve())
        except RunLockedError:  # another process trains it
            time.sleep(20)


def run(scale: study.Scale, row: study.Row, root: str, target: Target, runs: Path, console: Console) -> dict[str, Any]:
    """The row's record.

    Raises:
        EdgepruneError: one clear line; the dense network or this row cannot be had.
    """
    weights = dense(scale, row, root, target, runs, console)
    recipe = Recipe.model_validate(study.recipe(scale, row, root, weights))
    check_pair(recipe, target)
    began = time.perf_counter()
    with _pruned_by(study.ENTRIES[row.entry], scale):
        pipeline.run(recipe, target, runs, console)
    folder = runs / f"{recipe.name}@{target.name}"
    seconds = time.perf_counter() - began
    found = record(scale, row, read_json(folder / "report.json"), seconds)
    told = {"dense_weights": sha256(Path(weights))[:16], "masks": _masks(scale, row, root, weights, folder)}
    return found | told


@contextmanager
def _pruned_by(entry: study.Entry, scale: study.Scale) -> Iterator[None]:
    """edgeprune's stages, the prune stage replaced by the entry's where it is somebody else's."""
    before = list(pipeline.STAGES)
    if entry.by != "edgeprune":
        args = {**entry.args, **({"sparsity": scale.sparsity} if entry.sparsity else {})}
        work = partial(opponents.STAGES[entry.by], **args)
        pipeline.STAGES[:] = [replace(s, work=work) if s.name == "prune" else s for s in before]
    try:
        yield
    finally:
        pipeline.STAGES[:] = before


def record(scale: study.Scale, row: study.Row, report: dict[str, Any], seconds: float) -> dict[str, Any]:
    """What is kept of a run: enough for the page, without the data's pictures."""
    engine = {k: v for k, v in report["engine"].items() if not k.endswith(("path", "latency", "why_not"))}
    dense_latency, latency = (
        {k: v for k, v in report[role]["latency"].items() if k != "times_ms"} for role in ("dense", "pruned")
    )
    told = {k: report[k] for k in ("speedup", "gates", "scoring", "training_steps", "machine")}
    told["spent"] = report["budget"]  # `budget` is the row's
    return {
        "schema": SCHEMA, **row._asdict(), "title": study.ENTRIES[row.entry].title, "size": list(scale.size),
        "program": program(), "table": fair.row(report), "dense": {**report["dense"], "latency": dense_latency},
        "pruned": {**report["pruned"], "latency": latency}, "engine": engine, **told,
        "widths": {w["group"]: w["after"] for w in report["widths"]["widths"]}, "contest": report["contest"],
        "stages": [{k: s[k] for k in ("name", "seconds")} for s in report["stages"]], "seconds": seconds,
    }  # fmt: skip


def program() -> dict[str, str | None]:
    """Which program made a row: the commit (with a + where files differ from it) and the packages' versions."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    packages = ("edgeprune", "torch", "torch-pruning", "openvino")
    return {"commit": found.stdout.strip() or None, **{name: version(name) for name in packages}}


def _masks(scale: study.Scale, row: study.Row, root: str, weights: str, folder: Path) -> dict[str, Any]:
    """Masks of the dense and the pruned network on a few validation images, every other pixel, as runs of classes.

    They are the networks' own answers (PyTorch's); neither images nor labels of the data set are kept.
    """
    data = open_dataset("camvid", root, "val", scale.size, limit=SHOWN)
    images = normalised(np.stack([data[i][0] for i in range(SHOWN)]))
    model = scale.networks[row.network]
    dense = models.build(model["network"], model.get("args", {}), None, len(data.classes))
    models.load_checkpoint(dense, Path(weights))
    found = {}
    for name, net in (("dense", dense.eval()), ("pruned", load_pruned(folder))):
        with torch.no_grad():
            masks = models.logits_of(net(images)).argmax(1).to(torch.uint8).numpy()
        found[name] = [_runs(mask[::2, ::2]) for mask in masks]
    return found


def _runs(mask: np.ndarray) -> dict[str, Any]:
    flat = mask.ravel()
    starts = np.flatnonzero(np.r_[True, flat[1:] != flat[:-1]])
    lengths = np.diff(np.r_[starts, len(flat)])
    return {"shape": list(mask.shape), "classes": _words(flat[starts]), "lengths": _words(lengths)}


def _words(numbers: np.ndarray) -> str:
    """One line of the file, and not one for each."""
    return " ".join(map(str, numbers.tolist()))
