"""Profile: for a latency budget, the dense engine's time, its layers in their place, and the device's table."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.markup import escape
from torch import nn

from edgeprune import models
from edgeprune.deploy.export import export as export_onnx
from edgeprune.deploy.heads import COARSE, MOST_CLASSES, Tail, fastest
from edgeprune.deploy.plain import plain
from edgeprune.errors import DeviceError, RecipeError
from edgeprune.files import write_json
from edgeprune.measure.belief import Known, believed
from edgeprune.measure.patience import Patience
from edgeprune.measure.race import Race, race
from edgeprune.profile import context, roofline
from edgeprune.profile.predict import Predictor
from edgeprune.profile.profiler import Profiler
from edgeprune.profile.spans import spans
from edgeprune.profile.table import Table, Where
from edgeprune.prune.groups import ChannelGraph, find_groups
from edgeprune.runtime import UNTIMED, Engine
from edgeprune.stages import fits, heads, load, notes
from edgeprune.stages.asked import budget_limit
from edgeprune.stages.deploy import build, device, precision, with_types
from edgeprune.stages.run import Run

_BUSY = 1.5  # processes a core that want to run; our own training leaves about one
ITSELF = 0.1  # by which an engine timed against itself may differ
_CALIBRATION = 8  # images: an INT8 engine's speed does not depend on its scales


def profile(run: Run) -> dict[str, Any]:
    """Picks the head; for a latency budget writes `profile/dense.onnx` and `profile/table.json`, too."""
    if never := run.recipe.prune.never:  # again: the dense network may have been done before
        fits.check_never(load.build(run), never)
    missing = device(run).why_not()
    asked, known = run.recipe.deploy.head, load.task(run).heads
    if asked != "auto":
        found = {"head": asked}
    elif missing or len(known) == 1:
        found = {"head": known[0]}
    else:
        found = _heads(run)
    if run.target.backend in UNTIMED:
        missing = missing or f"{run.target.backend} tells no times by layer"
    if not run.recipe.budget.is_latency:
        return {"kind": None} | found
    return found | (
        _measured(run, found["head"], run.folder / "profile") if missing is None else _estimated(run, missing)
    )


def fill(run: Run) -> None:
    """Fill the device's table for a recipe's network, whatever its budget is; nothing is trained.

    Raises:
        DeviceError: the device is not at hand.
    """
    missing = device(run).why_not()
    if missing or run.target.backend in UNTIMED:
        raise DeviceError(f"profile: {missing or f'{run.target.backend} tells no times by layer'}")
    net = load.build(run).eval()
    graph = find_groups(net, load.example(run), run.recipe.prune.never)
    _warn_of_load(run)
    profiler = profiler_of(run)
    step = run.recipe.prune.step or profiler.step()
    started = time.perf_counter()
    surfaces = profiler.surfaces(graph.operations, graph.widths(), step)
    predictor = Predictor(graph.operations, graph.moves, graph.widths(), surfaces)
    run.console.print(
        f"{len(surfaces)} operator signatures of {run.recipe.name} at {precision(run)}: widths step at {step}, "
        f"{profiler.measured} operators measured in {time.perf_counter() - started:.0f} s; convolutions of the dense "
        f"network {predictor(graph.widths()):.3f} ms by the table"
    )
    run.console.print(f"table: {escape(str(profiler.table.path))}", soft_wrap=True)


def _heads(run: Run) -> dict[str, str]:
    """The fastest way to write the last step on this device, and the fastest exact one, timed behind a stand-in for the network."""
    size, home = run.recipe.data.size, run.folder / "profile"
    net = load.dense(run).eval()
    with torch.no_grad():
        shape = models.logits_of(net(load.example(run))).shape
    by_onnx = run.target.backend != "inductor" and run.recipe.deploy.route == "onnx"
    step = heads.coarse_step(run, net, home) if by_onnx else None  # it is made in the ONNX graph
    tried = {"chain": shape[1] <= MOST_CLASSES, COARSE: step is not None}
    task = load.task(run)
    names = [name for name in task.heads if tried.get(name, True)]
    if len(names) == 1:
        return {"head": names[0]}
    tail = Tail(shape[1], step or (max(1, size[0] // shape[2]), max(1, size[1] // shape[3])))
    calibration = list(_calibration(run))
    made = {}
    for name in names:
        path = home / f"head-{name}.onnx"
        shipped = task.shipped(tail, name, run.recipe.deploy.logits)
        export_onnx(shipped, size, path, run.recipe.deploy.opset)
        with_types(run, path, calibration[:1])
        made[name] = build(run, path, home / f"head-{name}", calibration, lambda kept=shipped: kept)
    for name in names:
        shutil.rmtree(home / f"head-{name}", ignore_errors=True)
        for path in home.glob(f"head-{name}.*"):
            path.unlink()

    def beats(best: str, name: str) -> bool:
        found = race(lambda n: device(run).pairs(made[best], made[name], _image(run), n), seconds=5, decided=True)
        run.console.print(f"head: {name} takes {found.share:.2f} of {best}'s time [{found.low:.2f}, {found.high:.2f}]")
        return found.high < 1

    exact = fastest([name for name in names if name != COARSE], beats)
    head = fastest([exact, COARSE], beats) if COARSE in names else exact
    run.console.print(f"head: {head}")
    return {"head": head, "exact_head": exact}


def again(run: Run) -> None:
    """Measure anew what was measured at another pace of the machine: the dense engine, and the network's rows of the table.

    The stage's own files and its record in the manifest stay, so that nothing before is done again. The new facts are notes of the
    pruning: `take_renewed` finds them after a kill, and what is measured after the pruning is held against the pruning's own facts.
    """
    graph = find_groups(load.dense(run), load.example(run), run.recipe.prune.never)
    profiler = profiler_of(run)
    profiler.table.forget(profiler.where, spans(graph.operations, graph.widths()))
    head = run.facts["profile"]["head"]
    found = _measured(run, head, run.folder / "prune" / "profile")
    run.facts["profile"] = {**run.facts["profile"], **found, "renewed": True}
    notes.keep(_renewed(run), {"key": run.key, "facts": run.facts["profile"]})


def take_renewed(run: Run) -> None:
    """Take over the facts that `again` measured for this very pruning, in a process that was killed since."""
    if told := notes.told(_renewed(run), run.key):
        run.facts["profile"] = told["facts"]
        run.console.print(
            f"going on with the profile that was taken again: dense engine {told['facts']['dense_ms']:.2f} ms"
        )


def _renewed(run: Run) -> Path:
    return run.folder / "prune" / "renewed.json"


def patience_of(run: Run) -> Patience:
    """What a run's process has left to wait for a quiet machine."""
    if "patience" not in run.kept:
        run.kept["patience"] = Patience(
            lambda line: run.console.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
        )
    return run.kept["patience"]


def _dense_ms(run: Run, dense: Engine) -> float:
    """Milliseconds of the dense engine, timed against itself: a ratio that is not 1 tells of other programs."""
    image = _image(run)
    absolute = run.recipe.budget.kind != "latency"

    def decided(found: Race) -> bool:
        budget = run.recipe.budget
        return absolute and budget.is_latency and 1.5 * float(np.median(found.slow)) <= budget_limit(budget, 0)

    sitting = lambda: race(lambda n: device(run).pairs(dense, dense, image, n))  # noqa: E731
    found = believed(sitting, Known(rough=1.0, wild=ITSELF, decided=decided), patience_of(run))
    return float(np.median(found.slow))


def _measured(run: Run, head: str, home: Path) -> dict[str, Any]:
    _warn_of_load(run)
    net = load.dense(run)
    graph = find_groups(net, load.example(run), run.recipe.prune.never)
    dense = engine_of(run, net, home, "dense", head)
    made = home / "engine-dense" / "engine.xml"  # what was really built; INT8 exists only there
    source = made if made.exists() else home / "dense.onnx"
    found = context.read(home / "dense.onnx", device(run).layers(source, precision(run)))
    _tell_unnamed(run, found, home / "dense.onnx")
    ms = _dense_ms(run, dense)
    profiler = profiler_of(run)
    step = run.recipe.prune.step or profiler.step()
    surfaces = profiler.surfaces(graph.operations, graph.widths(), step)
    predictor = Predictor(graph.operations, graph.moves, graph.widths(), surfaces)
    predictor.anchor(found, ms)
    conv, moved, fixed = (float(v) for v in predictor.parts(graph.widths()))
    run.console.print(
        f"dense engine {ms:.2f} ms: convolutions {conv:.2f}, other layers {moved:.2f}, fixed {fixed:.2f}; widths step at "
        f"{step}; {profiler.measured} operators measured, table {profiler.table.path}"
    )
    facts = {
        "kind": "measured", "step": step, "dense_ms": ms, "fixed_ms": fixed, "moved_ms": moved,
        "ratio": predictor.ratio, "slope": predictor.slope, "operators_measured": profiler.measured,
        "table": str(profiler.table.path), "precision_found": dense.precision,
    }  # fmt: skip
    shutil.rmtree(home / "engine-dense", ignore_errors=True)
    (home / "dense.onnx").unlink()
    write_json(home / "table.json", facts)
    return facts


def load_of(run: Run) -> tuple[float, int] | None:
    """(processes that want to run, cores) of a device that is busy with other work; None where it is not, or does not say."""
    told = device(run).fingerprint()
    load, cores = told.get("load_1min"), told.get("cores")
    return (load, cores) if load and cores and load > _BUSY * cores else None


def _warn_of_load(run: Run) -> None:
    """Engines of several threads wait for their slowest one: on a busy machine times tell of the others' work, too."""
    if busy := load_of(run):
        load, cores = busy
        run.console.print(
            f"[yellow]the device is busy (load {load:.1f} on {cores} cores): milliseconds measured now are not those of a quiet "
            "one; measure when it is quiet, or with `threads: 1` in the target's file[/yellow]"
        )


def _tell_unnamed(run: Run, found: context.Context, path: Path) -> None:
    """Say which share of the convolutions the engine has fused beyond telling: they are taken as the table has them."""
    named, whole = sum(len(times) for times in found.convolutions.values()), len(context.convolutions(path))
    if named < whole:
        run.console.print(
            f"[yellow]the engine tells no time of its own for {whole - named} of {whole} convolutions (their kernels' names "
            "cannot be joined to the graph, or stand for several): the table's times are taken for them[/yellow]"
        )


def _estimated(run: Run, why: str) -> dict[str, Any]:
    """The roofline of the target's catalogue; labelled as an estimate wherever it goes."""
    graph = find_groups(load.dense(run), load.example(run), run.recipe.prune.never)
    rows = rooflines(run, graph)
    step = run.recipe.prune.step or run.target.channel_step
    ms = Predictor(graph.operations, graph.moves, graph.widths(), rows)(graph.widths())
    run.console.print(
        f"[yellow]{escape(why)}: widths are planned on an estimate (roofline of the maker's figures: dense {ms:.2f} ms), which no "
        "budget is ever met by; measure on the device[/yellow]"
    )
    facts = {"kind": "estimated", "step": step, "dense_ms": ms, "why_not": why}
    write_json(run.folder / "profile" / "table.json", facts)
    return facts


def rooflines(run: Run, graph: ChannelGraph) -> Any:
    """The target's roofline of every signature.

    Raises:
        RecipeError: its file lacks the figures.
    """
    catalogue = run.target.catalogue
    signatures = spans(graph.operations, graph.widths())
    step = run.recipe.prune.step or run.target.channel_step
    found = roofline.surfaces(signatures, catalogue, precision(run), step) if catalogue else {}
    if not found:
        raise RecipeError(
            f"budget.{run.recipe.budget.kind}: {run.target.name} is not at hand and its file has no catalogue figures to "
            "estimate from; use budget.macs, or run where the device is"
        )
    return found


def predictor_of(run: Run, graph: ChannelGraph) -> Predictor:
    """The predictor as this stage left it."""
    facts = run.facts["profile"]
    if facts["kind"] == "estimated":
        return Predictor(graph.operations, graph.moves, graph.widths(), rooflines(run, graph))
    surfaces = profiler_of(run).surfaces(graph.operations, graph.widths(), facts["step"])
    predictor = Predictor(graph.operations, graph.moves, graph.widths(), surfaces)
    predictor.ratio, predictor.slope, predictor.fixed = dict(facts["ratio"]), facts["slope"], facts["fixed_ms"]
    return predictor


def profiler_of(run: Run) -> Profiler:
    """Measures on this run's device at its precision; opened once a process."""
    if "profiler" not in run.kept:
        where = Where(device(run).identity(), device(run).version(), precision(run))
        run.kept["profiler"] = Profiler(
            Table(), where, device(run).layers, typed=run.target.backend == "tensorrt", patience=patience_of(run)
        )
    return run.kept["profiler"]


def engine_of(run: Run, net: nn.Module, home: Path, name: str, head: str | None = None) -> Engine:
    """Export a network and compile it, only to be timed: `home/<name>.onnx` and `home/engine-<name>/`."""
    path = home / f"{name}.onnx"
    which = head or run.facts["profile"]["head"]
    shipped = load.task(run).shipped(plain(net, load.example(run)), which, run.recipe.deploy.logits)
    export_onnx(shipped, run.recipe.data.size, path, run.recipe.deploy.opset)
    images = list(_calibration(run))
    with_types(run, path, images[:2])
    return build(run, path, home / f"engine-{name}", images, lambda: shipped)


def _calibration(run: Run) -> Iterator[np.ndarray]:
    data = load.dataset(run, "train")
    count = min(_CALIBRATION, run.recipe.deploy.calibration_images, len(data))
    return (data[i * len(data) // count][0] for i in range(count))


def _image(run: Run) -> np.ndarray:
    return load.dataset(run, "val")[0][0][None]
