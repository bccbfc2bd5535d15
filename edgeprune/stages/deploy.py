"""Deploy: both networks, dense and pruned, to graphs and to engines."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from rich.markup import escape

from edgeprune.deploy import typed as typing
from edgeprune.deploy.export import WIDE, Heads, program
from edgeprune.deploy.export import export as export_onnx
from edgeprune.deploy.plain import plain
from edgeprune.deploy.simplify import simplify as simplify_onnx
from edgeprune.devices import Device, Replay, device_of
from edgeprune.files import write_atomic, write_json
from edgeprune.progress import doing
from edgeprune.runtime import TYPED, Engine, torch_tensorrt
from edgeprune.runtime.engine import built_of
from edgeprune.stages import heads, load
from edgeprune.stages.finetune import pruned
from edgeprune.stages.run import Run

ROLES = ("dense", "pruned")
RESULT = "result.zip"  # in the run's folder: what a bundle's run on the device has brought back


def network(run: Run, role: str) -> Any:
    """The dense or the fine-tuned network."""
    return load.dense(run) if role == "dense" else pruned(run, "finetune")


def whole(run: Run, role: str, head: str | None = None) -> Heads:
    """The network with what ships around it: bytes in, the task's answer out. The head is what the export has chosen."""
    net = plain(network(run, role), load.example(run))
    return load.task(run).shipped(net, head or run.facts["export"]["head"], run.recipe.deploy.logits)


def export(run: Run) -> dict[str, Any]:
    """Writes `export/{dense,pruned}.onnx`."""
    cfg, sizes, head = run.recipe.deploy, {}, heads.shipped(run, network(run, "pruned"))
    for role in ROLES:
        path = run.folder / "export" / f"{role}.onnx"
        export_onnx(whole(run, role, head), run.recipe.data.size, path, cfg.opset)
        sizes[role] = path.stat().st_size
        run.console.print(f"{role}: {sizes[role] / 1e6:.2f} MB of ONNX, opset {cfg.opset}")
    return {"bytes": sizes, "head": head}


def simplify(run: Run) -> dict[str, Any]:
    """Writes `simplify/{dense,pruned}.onnx`, checked against the exported ones on validation images."""
    facts = {}
    data = load.dataset(run, "val")
    images = np.stack([data[i][0] for i in range(min(3, len(data)))])
    for role in ROLES:
        source, target = run.folder / "export" / f"{role}.onnx", graph_of(run, role)
        if not run.recipe.deploy.simplify:
            write_atomic(target, source.read_bytes())
            continue
        done = simplify_onnx(source, target, images)
        if done.kept:
            run.console.print(f"[yellow]{role}: the unsimplified graph is kept: {escape(done.kept)}[/yellow]")
        else:
            run.console.print(
                f"{role}: {done.nodes_before} -> {done.nodes_after} nodes, logits differ by {done.difference:.0e}"
            )
        facts[role] = vars(done)
    return facts | types_beside(run)


def graph_of(run: Run, role: str) -> Path:
    """What engines are built of: the simplified graph in f32, with its types at another precision beside it."""
    return run.folder / "simplify" / f"{role}.onnx"


def types_beside(run: Run) -> dict[str, Any]:
    """Writes `simplify/{dense,pruned}.f16.onnx` beside the f32 ones, where the backend wants them."""
    facts, asked = {}, precision(run)
    for role in ROLES:
        done = with_types(run, graph_of(run, role), list(calibration(run)))
        if done is not None:
            facts[f"{role}.{asked}"] = done
            run.console.print(
                f"{role}: {asked} in the graph, {len(done['f32_nodes'])} nodes kept in f32; "
                f"{load.task(run).metric.agreement.replace('_', ' ')} with f32 on training images {done['agreement']:.4f}"
            )
    return facts


@doing("writing the precision into the graph")
def with_types(run: Run, path: Path, images: list[np.ndarray]) -> dict[str, Any] | None:
    """Where the backend takes precision as the graph has it: writes it beside `path` (`NAME.f16.onnx`); else does nothing.

    `NAME.f16.json` says which nodes stayed in FP32, and what the cast alone has cost.
    """
    asked = precision(run)
    if run.target.backend not in TYPED or asked == "f32" or run.recipe.deploy.route != "onnx":
        return None
    done = typing.write(path, path.with_suffix(f".{asked}.onnx"), asked, images, load.task(run).alike)
    write_json(path.with_suffix(f".{asked}.json"), done)
    return done


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
        if run.target.host is None and run.recipe.deploy.route == "onnx" and path.exists():
            brought = Replay(run.target, path)
            reason = brought.unfit({role: graph_of(run, role) for role in ROLES}, precision(run))
            if reason:
                run.console.print(f"[yellow]{escape(str(path))} is left aside: {escape(reason)}[/yellow]")
            else:
                run.kept["judged on"] = brought
    return run.kept["judged on"]


def engine(run: Run, role: str) -> Engine:
    """The engine of this run, compiled once a process."""
    if f"engine {role}" not in run.kept:
        source, home, on = graph_of(run, role), run.folder / "compile" / role, judged_on(run)
        if isinstance(on, Replay):
            run.kept[f"engine {role}"] = on.build(source, home, precision(run))
        else:
            run.kept[f"engine {role}"] = build(run, source, home, calibration(run), lambda: whole(run, role))
    return run.kept[f"engine {role}"]


def build(run: Run, source: Path, home: Path, images: Iterable[np.ndarray], shipped: Callable[[], Heads]) -> Engine:
    """Compile a graph on the run's device at its precision; `images` calibrate it. `shipped` is what it was exported of."""
    with doing(f"building {home.name} at {precision(run)}"):
        if run.target.backend == "inductor":  # takes networks, and is never given a file: its files are code
            made = program(shipped(), run.recipe.data.size, precision(run), run.target.device)
            return device(run).build(made, home, precision(run))
        if run.recipe.deploy.route == "torch_tensorrt":
            source = _as_built(run, source, home, shipped())
        return device(run).build(source, home, precision(run), images)


def _as_built(run: Run, source: Path, home: Path, shipped: Heads) -> Path:
    """torch-tensorrt's engine beside a copy of the graph, in a folder where the other route does not look."""
    graph = home / "torch_tensorrt" / source.name
    made = program(shipped, run.recipe.data.size, precision(run), str(PartialState().device), WIDE)
    write_atomic(graph, source.read_bytes())
    write_atomic(built_of(graph, precision(run)), torch_tensorrt.engine(made))
    return graph


def calibration(run: Run) -> Iterable[np.ndarray]:
    """Training images, (H, W, 3) uint8, spread over the set."""
    data = load.dataset(run, "train")
    count = min(run.recipe.deploy.calibration_images, len(data))
    return (data[i * len(data) // count][0] for i in range(count))


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
    """Engines for a device that is not here, where the backend builds such."""
    facts: dict[str, Any] = {}
    for role in ROLES:
        made = device(run).ahead(graph_of(run, role), run.folder / "compile" / role, precision(run))
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
    run.console.print(f"no engine is {'run' if facts else 'built'} here: {escape(reason)}")
    return facts
