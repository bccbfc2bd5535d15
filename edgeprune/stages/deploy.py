"""Deploy: both networks, dense and pruned, to engines; verified, bundled, reported."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.data.dataset import Dataset
from edgeprune.data.subset import Spread
from edgeprune.data.transforms import MEAN, STD
from edgeprune.deploy import bundle as bundling
from edgeprune.deploy import typed as typing
from edgeprune.deploy.export import Shipped
from edgeprune.deploy.export import export as export_onnx
from edgeprune.deploy.plain import plain
from edgeprune.deploy.simplify import simplify as simplify_onnx
from edgeprune.devices import Device, Replay, device_of
from edgeprune.files import replace_with, write_atomic
from edgeprune.runtime import Engine
from edgeprune.stages import load
from edgeprune.stages.finetune import pruned
from edgeprune.stages.run import Run

ROLES = ("dense", "pruned")
RESULT = "result.zip"  # in the run's folder: what a bundle's run on the device has brought back


def network(run: Run, role: str) -> Any:
    """The dense or the fine-tuned network."""
    return load.dense(run) if role == "dense" else pruned(run, "finetune")


def export(run: Run) -> dict[str, Any]:
    """Writes `export/{dense,pruned}.onnx`."""
    cfg, sizes = run.recipe.deploy, {}
    for role in ROLES:
        path = run.folder / "export" / f"{role}.onnx"
        net = plain(network(run, role), load.example(run))
        export_onnx(
            Shipped(net, MEAN, STD, cfg.logits, run.facts["profile"]["head"]), run.recipe.data.size, path, cfg.opset
        )
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
    return facts | _typed(run)


def _typed(run: Run) -> dict[str, Any]:
    """Writes `simplify/{dense,pruned}.f16.onnx` beside the f32 ones, where the backend wants them."""
    facts, asked = {}, precision(run)
    for role in ROLES:
        done = typed(run, run.folder / "simplify" / f"{role}.onnx", list(_calibration_images(run)))
        if done is not None:
            facts[f"{role}.{asked}"] = done
            run.console.print(
                f"{role}: {asked} in the graph, {len(done['f32_nodes'])} nodes kept in f32; {done['agreement']:.4f} of the "
                "pixels agree with f32 on training images"
            )
    return facts


def typed(run: Run, path: Path, images: list[np.ndarray]) -> dict[str, Any] | None:
    """TensorRT from 10 on takes precision as the graph has it: writes it beside `path` (`NAME.f16.onnx`); else does nothing."""
    asked = precision(run)
    if run.target.backend != "tensorrt" or asked == "f32":
        return None
    return typing.write(path, path.with_suffix(f".{asked}.onnx"), asked, images)


def _calibration_images(run: Run) -> Iterator[np.ndarray]:
    """Spread training images, (H, W, 3) uint8."""
    data = load.dataset(run, "train")
    count = min(run.recipe.deploy.calibration_images, len(data))
    return (data[i * len(data) // count][0] for i in range(count))


def precision(run: Run) -> str:
    """The precision asked for."""
    asked = run.recipe.deploy.precision
    return run.target.precision if asked == "auto" else asked


def device(run: Run) -> Device:
    """The target's machine; opened once a process."""
    if "device" not in run.kept:
        run.kept["device"] = device_of(run.target)
    return run.kept["device"]


def judged_on(run: Run) -> Device:
    """Where the engines of this run are built and measured: the target's machine, or the result that was brought from it.

    A result that does not fit the graphs of this run (another training, another budget) is left aside, and that is said.
    """
    if "judged on" not in run.kept:
        run.kept["judged on"] = device(run)
        path = run.folder / RESULT
        if run.target.host is None and path.exists():
            brought = Replay(run.target, path)
            graphs = {role: run.folder / "simplify" / f"{role}.onnx" for role in ROLES}
            reason = brought.unfit(graphs, precision(run))
            if reason:
                run.console.print(f"[yellow]{path} is left aside: {reason}[/yellow]")
            else:
                run.kept["judged on"] = brought
    return run.kept["judged on"]


def engine(run: Run, role: str) -> Engine:
    """The engine of this run, compiled once a process."""
    if f"engine {role}" not in run.kept:
        graph, home = run.folder / "simplify" / f"{role}.onnx", run.folder / "compile" / role
        run.kept[f"engine {role}"] = judged_on(run).build(graph, home, precision(run), _calibration_images(run))
    return run.kept[f"engine {role}"]


def compile(run: Run) -> dict[str, Any]:
    """Writes the engines' files under `compile/`; or says why this machine cannot build them."""
    reason = judged_on(run).why_not()
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
    if not run.facts["compile"]["why_not"] and not isinstance(judged_on(run), Replay):
        return {"path": None}
    bundling.write(
        home,
        graphs={path.stem: path for path in sorted((run.folder / "simplify").glob("*.onnx"))},
        plan=run.folder / "finetune" / "plan.json",
        parity=_parity_images(run),
        about=_about(run),
    )
    archive = home.with_suffix(".tar.gz")

    def pack(beside: Path) -> None:
        with tarfile.open(beside, "w:gz") as tar:
            tar.add(home, arcname=f"{run.recipe.name}@{run.target.name}")

    replace_with(archive, pack)
    run.console.print(f"bundle for the device: {archive} ({archive.stat().st_size / 1e6:.1f} MB)")
    return {"path": str(home), "archive": str(archive), "bytes": archive.stat().st_size}


def parity_data(run: Run) -> Dataset:
    """The validation images that travel in the bundle, spread evenly."""
    data = load.dataset(run, "val")
    return Spread(data, min(run.recipe.deploy.parity_images, len(data)))


def _parity_images(run: Run) -> dict[str, np.ndarray]:
    """The travelling images with their labels and PyTorch's answers."""
    data = parity_data(run)
    pairs = [data[i] for i in range(len(data))]
    images = np.stack([image for image, _ in pairs])
    found = {role: load.predictor(network(run, role)) for role in ROLES}
    masks = {f"{role}_masks": np.concatenate([p(image[None]) for image in images]) for role, p in found.items()}
    return {"images": images, "labels": np.stack([label for _, label in pairs]), **masks}


def _about(run: Run) -> dict[str, Any]:
    recipe = run.recipe
    return {
        "recipe": recipe.name,
        "target": run.target.name,
        "backend": run.target.backend,
        "device": run.target.device,
        "precision": precision(run),
        "input": {"name": "image", "shape": [1, *recipe.data.size, 3], "dtype": "uint8", "order": "RGB"},
        "classes": load.dataset(run, "val").classes,
        "palette": np.asarray(load.dataset(run, "val").palette).tolist(),
        "gates": recipe.deploy.gates.model_dump(mode="json"),
        "latency_runs": recipe.deploy.latency_runs,
    }
