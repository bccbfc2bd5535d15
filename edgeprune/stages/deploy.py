"""Deploy: both networks, dense and pruned, to engines; verified, bundled, reported."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.data.dataset import Dataset
from edgeprune.data.subset import Spread
from edgeprune.deploy import bundle as bundling
from edgeprune.deploy import typed as typing
from edgeprune.deploy.export import Heads, program
from edgeprune.deploy.export import export as export_onnx
from edgeprune.deploy.plain import plain
from edgeprune.deploy.simplify import simplify as simplify_onnx
from edgeprune.devices import Device, Replay, device_of
from edgeprune.files import read_json, replace_with, write_atomic, write_json
from edgeprune.runtime import TYPED, Engine
from edgeprune.stages import load
from edgeprune.stages.finetune import pruned
from edgeprune.stages.run import Run

ROLES = ("dense", "pruned")
RESULT = "result.zip"  # in the run's folder: what a bundle's run on the device has brought back


def network(run: Run, role: str) -> Any:
    """The dense or the fine-tuned network."""
    return load.dense(run) if role == "dense" else pruned(run, "finetune")


def whole(run: Run, role: str) -> Heads:
    """The network with what ships around it: bytes in, the task's answer out."""
    net = plain(network(run, role), load.example(run))
    return load.task(run).shipped(net, run.facts["profile"]["head"], run.recipe.deploy.logits)


def export(run: Run) -> dict[str, Any]:
    """Writes `export/{dense,pruned}.onnx`."""
    cfg, sizes = run.recipe.deploy, {}
    for role in ROLES:
        path = run.folder / "export" / f"{role}.onnx"
        export_onnx(whole(run, role), run.recipe.data.size, path, cfg.opset)
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
    return facts | types_beside(run)


def types_beside(run: Run) -> dict[str, Any]:
    """Writes `simplify/{dense,pruned}.f16.onnx` beside the f32 ones, where the backend wants them."""
    facts, asked = {}, precision(run)
    for role in ROLES:
        done = with_types(run, run.folder / "simplify" / f"{role}.onnx", list(calibration(run)))
        if done is not None:
            facts[f"{role}.{asked}"] = done
            run.console.print(
                f"{role}: {asked} in the graph, {len(done['f32_nodes'])} nodes kept in f32; "
                f"{load.task(run).metric.agreement.replace('_', ' ')} with f32 on training images {done['agreement']:.4f}"
            )
    return facts


def with_types(run: Run, path: Path, images: list[np.ndarray]) -> dict[str, Any] | None:
    """TensorRT from 10 on takes precision as the graph has it: writes it beside `path` (`NAME.f16.onnx`); else does nothing."""
    asked = precision(run)
    if run.target.backend != "tensorrt" or asked == "f32":
        return None
    return typing.write(path, path.with_suffix(f".{asked}.onnx"), asked, images, load.task(run).alike)


def precision(run: Run) -> str:
    """The precision asked for; under `fastest` the target's own until `stages.precision` has chosen."""
    planned = run.recipe.deploy.planned
    own = run.target.precision if planned == "auto" else planned
    return run.facts.get("precision", {}).get("chosen") or own


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
            folders = {
                role: (run.folder / "simplify" / f"{role}.onnx", run.folder / "compile" / role) for role in ROLES
            }
            graphs = {role: graph_for(run, *places, calibration(run)) for role, places in folders.items()}
            reason = brought.unfit(graphs, precision(run))
            if reason:
                run.console.print(f"[yellow]{path} is left aside: {reason}[/yellow]")
            else:
                run.kept["judged on"] = brought
    return run.kept["judged on"]


def engine(run: Run, role: str) -> Engine:
    """The engine of this run, compiled once a process."""
    if f"engine {role}" not in run.kept:
        source, home, on = run.folder / "simplify" / f"{role}.onnx", run.folder / "compile" / role, judged_on(run)
        if isinstance(on, Replay):
            run.kept[f"engine {role}"] = on.build(source, home, precision(run))
        else:
            run.kept[f"engine {role}"] = build(run, source, home, calibration(run), lambda: whole(run, role))
    return run.kept[f"engine {role}"]


def build(run: Run, source: Path, home: Path, images: Iterable[np.ndarray], shipped: Callable[[], Heads]) -> Engine:
    """Compile a graph on the run's device at its precision; `images` calibrate it. `shipped` is what it was exported of."""
    if run.target.backend == "inductor":  # takes networks, and is never given a file: its files are code
        made = program(shipped(), run.recipe.data.size, precision(run), run.target.device)
        return device(run).build(made, home, precision(run))
    kept = list(images) if run.target.backend in TYPED else images
    return device(run).build(graph_for(run, source, home, kept), home, precision(run), kept)


def graph_for(run: Run, source: Path, home: Path, images: Iterable[np.ndarray]) -> Path:
    """What the backend gets: `source`, or `home/graph.onnx` with the precision inside, where types are taken as found."""
    if run.target.backend not in TYPED:
        return source
    path = home / "graph.onnx"
    write_json(home / "graph.json", typing.write(source, path, precision(run), list(images), load.task(run).alike))
    return path


def calibration(run: Run) -> Iterable[np.ndarray]:
    """Training images, (H, W, 3) uint8, spread over the set."""
    data = load.dataset(run, "train")
    count = min(run.recipe.deploy.calibration_images, len(data))
    return (data[i * len(data) // count][0] for i in range(count))


def shipped_graph(run: Run, role: str) -> Path:
    """The very graph that the device's engine is built of."""
    found = run.folder / "compile" / role / "graph.onnx"
    return found if run.target.backend in TYPED else run.folder / "simplify" / f"{role}.onnx"


def compile(run: Run) -> dict[str, Any]:
    """Writes the engines' files under `compile/`; or says why this machine cannot run, or not even build, them."""
    reason = judged_on(run).why_not()
    if reason:
        return {"why_not": reason, **_ahead(run, reason)}
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


def _ahead(run: Run, reason: str) -> dict[str, Any]:
    """Engines for a device that is not here, where the backend builds such; the typed graphs in any case."""
    facts: dict[str, Any] = {}
    for role in ROLES:
        source, home = run.folder / "simplify" / f"{role}.onnx", run.folder / "compile" / role
        graph = graph_for(run, source, home, calibration(run))
        made = device(run).ahead(graph, home, precision(run))
        if made is None:
            continue
        facts[role] = {
            "backend": made.backend, "device": made.device, "precision_found": made.precision, "path": str(made.path),
            "convolutions": made.convolutions, "layers": made.layers,
        }  # fmt: skip
        counts = ", ".join(f"{n} {kind}" for kind, n in made.convolutions.items())
        run.console.print(
            f"{role}: {made.backend} for {made.device}, {made.path.stat().st_size / 1e6:.1f} MB, convolutions: {counts}"
        )
    run.console.print(f"no engine is {'run' if facts else 'built'} here: {reason}")
    return facts


def bundle(run: Run) -> dict[str, Any]:
    """Writes `bundle/`, what a board without edgeprune needs, and `bundle.tar.gz`; nothing where this machine is the target."""
    home = run.folder / "bundle"
    if not run.facts["compile"]["why_not"] and not isinstance(judged_on(run), Replay):
        return {"path": None}
    bundling.write(
        home,
        graphs=_graphs(run),
        engines={role: Path(made["path"]) for role, made in _ahead_of(run).items()},
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
    run.console.print(f"bundle for the device: {archive} ({archive.stat().st_size / 1e6:.1f} MB)")
    return {"path": str(home), "archive": str(archive), "bytes": archive.stat().st_size}


def parity_data(run: Run) -> Dataset:
    """The validation images that travel in the bundle, spread evenly."""
    data = load.dataset(run, "val")
    return Spread(data, min(run.recipe.deploy.parity_images, len(data)))


def _graphs(run: Run) -> dict[str, Path]:
    """What is built on the device, by the name that it has in the bundle; with the precision inside where there is one."""
    shipped = {role: shipped_graph(run, role) for role in ROLES}
    beside = {role: path.with_suffix(f".{precision(run)}.onnx") for role, path in shipped.items()}
    return shipped | {f"{role}.{precision(run)}": path for role, path in beside.items() if path.exists()}


def _ahead_of(run: Run) -> dict[str, Any]:
    """Facts of the engines that were built here for a device that is elsewhere; empty where there are none."""
    facts = run.facts["compile"]
    return {role: facts[role] for role in ROLES if role in facts} if facts["why_not"] else {}


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
        "precision": precision(run),
        "typed": _typed(run),
        "engines": {role: made | {"path": f"{role}{Path(made['path']).suffix}"} for role, made in engines.items()},
        "input": {"name": "image", "shape": [1, *recipe.data.size, 3], "dtype": "uint8", "order": "RGB"},
        "classes": load.dataset(run, "val").classes,
        "palette": np.asarray(load.dataset(run, "val").palette).tolist(),
        "gates": recipe.deploy.gates.of(recipe.task),
        "latency_runs": recipe.deploy.latency_runs,
    }


def _typed(run: Run) -> dict[str, Any] | None:
    """How the precision was written into the graphs; None where the device's own compiler chooses types."""
    if run.target.backend not in TYPED:
        return None
    return {role: read_json(run.folder / "compile" / role / "graph.json") for role in ROLES}
