"""Deploy: both networks, dense and pruned, to engines; verified, bundled, reported."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.deploy import bundle as bundling
from edgeprune.deploy.export import export as export_onnx
from edgeprune.deploy.plain import plain
from edgeprune.deploy.simplify import simplify as simplify_onnx
from edgeprune.devices import Device, device_of
from edgeprune.files import replace_with, write_atomic
from edgeprune.runtime import Engine
from edgeprune.stages import load
from edgeprune.stages.finetune import pruned
from edgeprune.stages.run import Run

ROLES = ("dense", "pruned")


def network(run: Run, role: str) -> Any:
    """The dense or the fine-tuned network."""
    return load.dense(run) if role == "dense" else pruned(run, "finetune")


def export(run: Run) -> dict[str, Any]:
    """Writes `export/{dense,pruned}.onnx`."""
    cfg, sizes = run.recipe.deploy, {}
    for role in ROLES:
        path = run.folder / "export" / f"{role}.onnx"
        net = plain(network(run, role), load.example(run))
        shipped = load.task(run).shipped(net, run.facts["profile"]["head"], cfg.logits)
        export_onnx(shipped, run.recipe.data.size, path, cfg.opset)
        sizes[role] = path.stat().st_size
        run.console.print(f"{role}: {sizes[role] / 1e6:.2f} MB of ONNX, opset {cfg.opset}")
    return {"bytes": sizes}


def simplify(run: Run) -> dict[str, Any]:
    """Writes `simplify/{dense,pruned}.onnx`, checked against the exported ones on validation images."""
    facts = {}
    data = load.dataset(run, "val")
    images = np.stack([data[i][0] for i in range(min(3, len(data)))])
    for role in ROLES:
        source, target = run.folder / "export" / f"{role}.onnx", run.folder / "simplify" / f"{role}.onnx"
        if not run.recipe.deploy.simplify:
            write_atomic(target, source.read_bytes())
            continue
        done = simplify_onnx(source, target, images)
        if done.kept:
            run.console.print(f"[yellow]{role}: the unsimplified graph is kept: {done.kept}[/yellow]")
        else:
            run.console.print(
                f"{role}: {done.nodes_before} -> {done.nodes_after} nodes, logits differ by {done.difference:.0e}"
            )
        facts[role] = vars(done)
    return facts


def precision(run: Run) -> str:
    """The precision asked for."""
    asked = run.recipe.deploy.precision
    return run.target.precision if asked == "auto" else asked


def device(run: Run) -> Device:
    """The target's machine; opened once a process."""
    if "device" not in run.kept:
        run.kept["device"] = device_of(run.target)
    return run.kept["device"]


def engine(run: Run, role: str) -> Engine:
    """The engine of this run, compiled once a process."""
    if f"engine {role}" not in run.kept:
        data, cfg = load.dataset(run, "train"), run.recipe.deploy
        count = min(cfg.calibration_images, len(data))
        calibration = (data[i * len(data) // count][0] for i in range(count))
        run.kept[f"engine {role}"] = device(run).build(
            run.folder / "simplify" / f"{role}.onnx", run.folder / "compile" / role, precision(run), calibration
        )
    return run.kept[f"engine {role}"]


def compile(run: Run) -> dict[str, Any]:
    """Writes the engines' files under `compile/`; or says why this machine cannot build them."""
    reason = device(run).why_not()
    if reason:
        run.console.print(f"no engine is built here: {reason}")
        return {"why_not": reason}
    facts: dict[str, Any] = {"why_not": None}
    for role in ROLES:
        made = engine(run, role)
        facts[role] = {
            "backend": made.backend,
            "device": made.device,
            "precision_found": made.precision,
            "path": str(made.path),
        }
        run.console.print(f"{role}: {made.backend} on {made.device}, asked {precision(run)}, found {made.precision}")
        if made.precision not in (precision(run), "unknown"):
            run.console.print(f"[yellow]{role}: the device runs {made.precision} instead of {precision(run)}[/yellow]")
    return facts


def bundle(run: Run) -> dict[str, Any]:
    """Writes `bundle/`, what a board without edgeprune needs, and `bundle.tar.gz`; nothing where this machine is the target."""
    home = run.folder / "bundle"
    if not run.facts["compile"]["why_not"]:
        return {"path": None}
    bundling.write(
        home,
        graphs={role: run.folder / "simplify" / f"{role}.onnx" for role in ROLES},
        plan=run.folder / "finetune" / "plan.json",
        parity=_parity_images(run),
        calibration=_calibration(run),
        about=_about(run),
        scripts=load.task(run).scripts,
    )
    archive = home.with_suffix(".tar.gz")

    def pack(beside: Path) -> None:
        with tarfile.open(beside, "w:gz") as tar:
            tar.add(home, arcname=f"{run.recipe.name}@{run.target.name}")

    replace_with(archive, pack)
    run.console.print(f"bundle for the device: {archive} ({archive.stat().st_size / 1e6:.1f} MB)")
    return {"path": str(home), "archive": str(archive), "bytes": archive.stat().st_size}


def _parity_images(run: Run) -> dict[str, np.ndarray]:
    """Spread validation images with their labels and PyTorch's answers."""
    data, count = load.dataset(run, "val"), min(run.recipe.deploy.parity_images, len(load.dataset(run, "val")))
    pairs = [data[i * len(data) // count] for i in range(count)]
    images, task = np.stack([image for image, _ in pairs]), load.task(run)
    found = {role: task.predictor(network(run, role)) for role in ROLES}
    answers = {f"{role}_answers": np.concatenate([p(image[None]) for image in images]) for role, p in found.items()}
    return {"images": images, **answers, **task.bundled([label for _, label in pairs])}


def _calibration(run: Run) -> np.ndarray | None:
    if precision(run) != "int8":
        return None
    data, cfg = load.dataset(run, "train"), run.recipe.deploy
    count = min(cfg.calibration_images, len(data))
    return np.stack([data[i * len(data) // count][0] for i in range(count)])


def _about(run: Run) -> dict[str, Any]:
    recipe = run.recipe
    return {
        "recipe": recipe.name,
        "task": recipe.task,
        "target": run.target.name,
        "backend": run.target.backend,
        "device": run.target.device,
        "precision": precision(run),
        "input": {"name": "image", "shape": [1, *recipe.data.size, 3], "dtype": "uint8", "order": "RGB"},
        "classes": load.dataset(run, "val").classes,
        "gates": recipe.deploy.gates.of(recipe.task),
        "latency_runs": recipe.deploy.latency_runs,
    }
