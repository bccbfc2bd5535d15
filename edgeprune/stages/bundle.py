"""Bundle: what a device that is not connected needs to build, check and measure both engines by itself."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape

from edgeprune.data.dataset import Dataset
from edgeprune.data.subset import Spread
from edgeprune.deploy import bundle as bundling
from edgeprune.devices import Replay
from edgeprune.files import replace_with
from edgeprune.runtime.engine import flagged, typed
from edgeprune.stages import load
from edgeprune.stages.deploy import ROLES, graph_of, judged_on, network, precision
from edgeprune.stages.run import Run


def bundle(run: Run) -> dict[str, Any]:
    """Writes `bundle/`, what a board without edgeprune needs, and `bundle.tar.gz`; nothing where this machine is the target."""
    home = run.folder / "bundle"
    if not run.facts["compile"]["why_not"] and not isinstance(judged_on(run), Replay):
        return {"path": None}
    bundling.write(
        home,
        graphs=_graphs(run),
        engines={_named(run, role): Path(made["path"]) for role, made in _ahead_of(run).items()},
        plan=run.folder / "finetune" / "plan.json",
        parity=_parity_images(run),
        about=_about(run),
        scripts=load.task(run).scripts,
    )
    archive = home.with_suffix(".tar.gz")

    def pack(beside: Path) -> None:
        with tarfile.open(beside, "w:gz") as tar:
            tar.add(home, arcname=f"{run.recipe.name}@{run.target.name}")

    replace_with(archive, pack)
    run.console.print(f"bundle for the device: {escape(str(archive))} ({archive.stat().st_size / 1e6:.1f} MB)")
    return {"path": str(home), "archive": str(archive), "bytes": archive.stat().st_size}


def parity_data(run: Run) -> Dataset:
    """The validation images that travel in the bundle, spread evenly."""
    data = load.dataset(run, "val")
    return Spread(data, min(run.recipe.deploy.parity_images, len(data)))


def _graphs(run: Run) -> dict[str, Path]:
    """What is built on the device, by the name that it has in the bundle; with the precision inside where there is one."""
    found = [
        (graph_of(run, role), way(graph_of(run, role), precision(run))) for role in ROLES for way in (typed, flagged)
    ]
    return {path.stem: path for pair in found for path in pair if path}


def _ahead_of(run: Run) -> dict[str, Any]:
    """Facts of the engines that were built here for a device that is elsewhere; empty where there are none."""
    facts = run.facts["compile"]
    return {role: facts[role] for role in ROLES if role in facts} if facts["why_not"] else {}


def _named(run: Run, role: str) -> str:
    """An engine has the name of the graph that it was built of."""
    return typed(graph_of(run, role), precision(run)).stem


def _parity_images(run: Run) -> dict[str, np.ndarray]:
    """The travelling images with PyTorch's answers, and what the task's check wants besides."""
    data, task = parity_data(run), load.task(run)
    pairs = [data[i] for i in range(len(data))]
    images = np.stack([image for image, _ in pairs])
    found = {role: task.predictor(network(run, role)) for role in ROLES}
    answers = {f"{role}_answers": np.concatenate([p(image[None]) for image in images]) for role, p in found.items()}
    return {"images": images, **answers, **task.bundled([label for _, label in pairs])}


def _about(run: Run) -> dict[str, Any]:
    recipe, engines = run.recipe, _ahead_of(run)
    return {
        "recipe": recipe.name,
        "task": recipe.task,
        "target": run.target.name,
        "backend": run.target.backend,
        "device": run.target.device,
        "threads": run.target.threads,
        "precision": precision(run),
        "engines": {
            role: made | {"path": _named(run, role) + Path(made["path"]).suffix} for role, made in engines.items()
        },
        "input": {"name": "image", "shape": [1, *recipe.data.size, 3], "dtype": "uint8", "order": "RGB"},
        "classes": load.dataset(run, "val").classes,
        "palette": np.asarray(load.dataset(run, "val").palette).tolist(),
        "gates": recipe.deploy.gates.of(recipe.task),
        "latency_runs": recipe.deploy.latency_runs,
    }
