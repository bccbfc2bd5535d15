"""Verify: the engine itself on real images against PyTorch, the losses by stage, latency in pairs, and the gates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from rich.markup import escape

from edgeprune.data.dataset import Dataset
from edgeprune.deploy import gates as gating
from edgeprune.deploy.parity import lost
from edgeprune.devices import Replay
from edgeprune.errors import EngineError
from edgeprune.files import read_json, replace_with, write_json
from edgeprune.measure.belief import PACE, PACE_OF_RATIOS, Known, NotBelieved, believed
from edgeprune.measure.bootstrap import time_ratio
from edgeprune.measure.race import Race, race
from edgeprune.measure.timing import measurement
from edgeprune.profile.explain import explain
from edgeprune.profile.roofline import BYTES
from edgeprune.progress import Progress
from edgeprune.runtime.engine import typed
from edgeprune.runtime.onnxruntime import OnnxRuntimeEngine
from edgeprune.stages import latency, load
from edgeprune.stages.bundle import parity_data
from edgeprune.stages.deploy import ROLES, engine, graph_of, judged_on, network, precision
from edgeprune.stages.profile import patience_of
from edgeprune.stages.run import Run
from edgeprune.tasks import Task

_TOLERANCE = 0.01  # of a budget that is counted and not measured


def verify(run: Run) -> dict[str, Any]:
    """Writes `verify/{parity,gates}.json` and `verify/pictures.npz` (for the report).

    Where no engine could be built here, ONNX Runtime runs the very graph that the device will get, and nothing is timed.
    """
    home, data, task = run.folder / "verify", _data(run), load.task(run)
    here = run.facts["compile"]["why_not"] is None
    device = PartialState().device
    runners: dict[str, Any] = {
        "dense": task.predictor(network(run, "dense").to(device)),
        "pruned": task.predictor(network(run, "pruned").to(device)),
        "onnx": OnnxRuntimeEngine(run.folder / "export" / "pruned.onnx").predict,
        "simplified": OnnxRuntimeEngine(graph_of(run, "pruned")).predict,
    }
    if (beside := typed(graph_of(run, "pruned"), precision(run))) != graph_of(run, "pruned"):
        runners[precision(run)] = OnnxRuntimeEngine(beside).predict
    if here:
        runners["engine"] = engine(run, "pruned").predict
    found: dict[str, Any] = {}
    rows: dict[str, Any] = {}
    last: Any = None
    for name, predict in runners.items():
        with Progress(f"judging {name}", len(data), unit="images") as bar:
            last = task.evaluate(predict, data, tick=bar.move)
        rows[name] = task.row(last)
        if name in ("dense", "pruned"):  # each holds the masks of all images
            found[name] = last
    facts = {"measured": here, **compared(task, rows, found, last)}
    nothing = {
        "latency": None,
        "dense_latency": None,
        "speedup": None,
        "budget": None,
        "layers": None,
        "boundaries": None,
    }
    facts |= _latency(run) if here else nothing
    facts["gates"] = [g.record() for g in _gates(run, facts)]
    _keep_pictures(run, found, last)
    told = ("parity", "pruning", "shipped", "chance", "attribution", "judged")
    write_json(home / "parity.json", {k: facts[k] for k in told})
    write_json(home / "gates.json", facts["gates"])
    return facts


def _data(run: Run) -> Dataset:
    """The images that everything is judged on: those that travelled, where the engine ran out of reach; else all."""
    return parity_data(run) if isinstance(judged_on(run), Replay) else load.dataset(run, "val")


def compared(task: Task, rows: dict[str, Any], found: dict[str, Any], last: Any) -> dict[str, Any]:
    """Where the metric goes, and how what ships differs from the pruned network, and both from the dense one.

    Args:
        rows: figures of every network and graph, in order; `found`: the evaluations of "dense" and "pruned"; `last`: of what ships.
    """
    m = task.metric

    def from_dense(other: Any) -> dict[str, Any]:
        difference, low, high = task.difference(found["dense"], other)
        each = lost(rows["dense"][m.per_class], task.row(other)[m.per_class])
        return {f"{m.key}_difference": 100 * difference, "ci95": [100 * low, 100 * high], **each}

    told = (m.key, m.more[0], m.per_class)
    return {
        "attribution": [{"stage": n, **{key: row[key] for key in told}} for n, row in rows.items()],
        "judged": task.row(last),
        "parity": task.parity(found["pruned"], last),
        "chance": task.chance(found["dense"]),
        "pruning": from_dense(found["pruned"]),
        "shipped": from_dense(last),
    }


def _latency(run: Run) -> dict[str, Any]:
    """Interleaved pairs dense / pruned on a real image, with the interval of the ratio."""
    dense, small = engine(run, "dense"), engine(run, "pruned")
    if dense.precision != small.precision:
        raise EngineError(
            f"the dense engine runs at {dense.precision}, the pruned one at {small.precision}: not compared"
        )
    image, runs = _data(run)[0][0][None], run.recipe.deploy.latency_runs
    once = isinstance(judged_on(run), Replay)  # a result that was brought gives its pairs once, all of them
    most = 1 if once else 2000 if run.recipe.budget.is_latency else runs
    sitting = lambda: race(lambda n: judged_on(run).pairs(dense, small, image, n), pairs=runs, most=most)  # noqa: E731
    found = sitting() if once or not run.recipe.budget.is_latency else _believed(run, sitting, small.precision)
    slow, fast, warm, answer = found.slow, found.fast, found.warm, load.task(run).metric.answer
    median, low, high = time_ratio(slow, fast)
    records = [
        measurement(
            times, w, backend=e.backend, precision=e.precision, device=e.device, boundary=f"image to {answer}"
        ).record()
        for e, times, w in ((dense, slow, warm[0]), (small, fast, warm[1]))
    ]
    return {
        "dense_latency": records[0],
        "latency": records[1],
        "speedup": {
            "median": median,
            "ci95": [low, high],
            "pairs": len(slow),
            "disturbed": found.disturbed,
            "busy": found.busy,
            "throttled": list(found.throttled),
        },
        "machine": judged_on(run).fingerprint(),
        "boundaries": judged_on(run).boundaries(small, image),
        "budget": _budget(run, found) if run.recipe.budget.is_latency else None,
        "layers": _layers(run),
    }


def _believed(run: Run, sitting: Callable[[], Race], precision: str) -> Race:
    """The race that a latency budget is judged by; after all those hours one that cannot be believed is no error but a gate that fails.

    Another pace than the loop's that stays the same is a note: a budget is judged by the ratio of this race, or by its milliseconds.
    """
    base, relative = run.facts["prune"]["budget"].get("dense"), run.recipe.budget.kind == "latency"
    share = _expected(run, precision)  # None: of another precision than the loop's
    known = Known(
        share, latency.CLOSE, slow=base if share else None, pace=PACE_OF_RATIOS if relative else PACE,
        decided=lambda r: latency.amply(run, r, float(np.median(r.slow))),
    )  # fmt: skip
    try:
        return believed(sitting, known, patience_of(run))
    except NotBelieved as error:
        judged = "; it is judged at the pace of today" if error.pace_alone else ""
        run.console.print(f"{error}{judged}", style="yellow", markup=False, soft_wrap=True)
        if error.pace_alone:
            return error.race
        return replace(error.race, throttled=(*error.race.throttled, str(error)))


def _expected(run: Run, precision: str) -> float | None:
    """The share of the dense engine's time that the loop measured with these widths; None where it built none in this precision."""
    told = run.facts["prune"]["budget"]
    return told.get("share") if told.get("precision") == precision else None


def _budget(run: Run, found: Race) -> dict[str, Any]:
    """The engine that ships against the budget, in the milliseconds of this very race."""
    dense = float(np.median(found.slow))
    limit = latency.limit_of(run, dense)
    achieved, low, high = latency.milliseconds(run, found, dense)
    return {"dense": dense, "limit": limit, "achieved": achieved, "ci95": [low, high], "met": high <= limit}


def counted(run: Run) -> dict[str, Any]:
    """A budget of MACs, parameters or channels, counted on the pruned network itself (MACs by fvcore)."""
    planned = run.facts["prune"]["budget"]
    achieved = run.facts["finetune"].get(planned["kind"], planned["achieved"])
    met = achieved <= (1 + _TOLERANCE) * planned["limit"]
    told = {k: planned[k] for k in ("kind", "limit", "dense")}
    return {**told, "achieved": achieved, "tolerance": _TOLERANCE, "met": met}


def _layers(run: Run) -> dict[str, Any] | None:
    """Dense and pruned engine layer by layer; None where the backend does not tell."""
    if run.recipe.deploy.route != "onnx":  # the graph's engine is another one
        run.console.print("[dim]no times by layer: torch-tensorrt's engines do not know the graph's names[/dim]")
        return None
    graphs = [graph_of(run, role) for role in ROLES]
    try:
        times = [
            judged_on(run).layers(_built(engine(run, role).path, g), precision(run))
            for role, g in zip(ROLES, graphs, strict=True)
        ]
    except EngineError as error:
        run.console.print(f"[dim]no times by layer: {escape(str(error))}[/dim]")
        return None
    step = run.facts["profile"].get("step") or run.target.channel_step
    told = read_json(run.folder / "prune" / "widths.json")
    return explain(
        (graphs[0], graphs[1]), (times[0], times[1]), step, told["convolutions"], told["removed"], BYTES[precision(run)]
    )


def _built(path: Path, graph: Path) -> Path:
    """OpenVINO's own file, which alone holds what INT8 has become; else the graph."""
    return path if path.suffix == ".xml" else graph


def _gates(run: Run, facts: dict[str, Any]) -> list[gating.Gate]:
    limits, task = run.recipe.deploy.gates, load.task(run)
    found = task.gates(limits, facts["parity"], facts["judged"])
    pruning = facts["pruning"]
    low, high = pruning["ci95"]
    found += gating.no_drop(
        "pruning_drop", limits.pruning_drop, pruning[f"{task.metric.key}_difference"],
        f"pruned against dense, 95 % [{low:+.3f}, {high:+.3f}]",
    )  # fmt: skip
    found += gating.no_drop(
        "pruning_class_drop", limits.pruning_class_drop, pruning["lost_class_difference"], pruning["lost_class"]
    )
    timed = []
    if facts["budget"]:
        budget = facts["budget"]
        timed.append(
            gating.Gate(
                "latency", round(budget["limit"], 4), budget["ci95"][1], budget["met"],
                f"ms, upper end of 95 %; p50 {budget['achieved']:.3f}, {budget['achieved'] / budget['limit']:.1%} of the budget",
            )
        )  # fmt: skip
    if not run.recipe.budget.is_latency:
        budget = counted(run)
        share = f"{budget['achieved'] / budget['limit']:.1%} of the budget"
        found.append(gating.Gate(budget["kind"], budget["limit"], budget["achieved"], budget["met"], share))
    if facts["measured"]:
        timed += gating.at_least("min_speedup", limits.min_speedup, facts["speedup"]["ci95"][0], "lower end of 95 %")
    return found + gating.trusted(timed, facts["speedup"]["throttled"] if facts["measured"] else [])


def _keep_pictures(run: Run, found: dict[str, Any], last: Any, count: int = 4) -> None:
    """From the image where the engine agrees least with the dense network, which is worth looking at, to the most."""
    data, task = _data(run), load.task(run)
    order = np.argsort(task.agreement(found["dense"], last), kind="stable")
    chosen = [int(order[i]) for i in np.linspace(0, len(order) - 1, min(count, len(order))).astype(int)]
    shown = {"dense": found["dense"], "pruned": found["pruned"], "engine" if "engine" in found else "graph": last}
    cells = []
    for i in chosen:
        image, label = data[i]
        cells.append([("image", image), *task.pictures(image, label, shown, i, data)])
    arrays = {
        "index": np.array(chosen),
        "captions": np.array([[caption for caption, _ in row] for row in cells]),
        "pictures": np.array([[picture for _, picture in row] for row in cells]),
    }

    def save(beside: Any) -> None:
        with open(beside, "wb") as handle:
            np.savez_compressed(handle, **arrays)  # type: ignore[arg-type]

    replace_with(run.folder / "verify" / "pictures.npz", save)
