"""Verify: the engine itself on real images against PyTorch, the losses by stage, latency in pairs, and the gates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState

from edgeprune.data.dataset import Dataset
from edgeprune.deploy import gates as gating
from edgeprune.deploy.parity import agreement_per_image, parity
from edgeprune.devices import Replay
from edgeprune.errors import EngineError
from edgeprune.files import read_json, replace_with, write_json
from edgeprune.measure.bootstrap import miou_difference, time_ratio
from edgeprune.measure.miou import Evaluation, evaluate
from edgeprune.measure.race import Race, race
from edgeprune.measure.timing import measurement
from edgeprune.profile.explain import explain
from edgeprune.progress import Progress
from edgeprune.runtime import TYPED
from edgeprune.runtime.onnxruntime import OnnxRuntimeEngine
from edgeprune.stages import latency, load
from edgeprune.stages.deploy import ROLES, engine, judged_on, network, parity_data, precision, shipped_graph
from edgeprune.stages.run import Run


def verify(run: Run) -> dict[str, Any]:
    """Writes `verify/{parity,gates}.json` and `verify/masks.npz` (for the report's pictures).

    Where no engine could be built here, ONNX Runtime runs the very graph that the device will get, and nothing is timed.
    """
    home, data = run.folder / "verify", _data(run)
    here = run.facts["compile"]["why_not"] is None
    device = PartialState().device
    runners: dict[str, Any] = {
        "dense": load.predictor(network(run, "dense").to(device)),
        "pruned": load.predictor(network(run, "pruned").to(device)),
        "onnx": OnnxRuntimeEngine(run.folder / "export" / "pruned.onnx").predict,
        "simplified": OnnxRuntimeEngine(run.folder / "simplify" / "pruned.onnx").predict,
    }
    if run.target.backend in TYPED and precision(run) != "f32":
        runners[precision(run)] = OnnxRuntimeEngine(shipped_graph(run, "pruned")).predict
    if here:
        runners["engine"] = engine(run, "pruned").predict
    found: dict[str, Evaluation] = {}
    for name, predict in runners.items():
        with Progress(f"judging {name}", len(data), unit="images") as bar:
            found[name] = evaluate(predict, data, tick=bar.move)
    last = list(found.values())[-1]
    facts: dict[str, Any] = {
        "measured": here,
        "attribution": [{"stage": n, "miou": e.miou, "boundary_iou": e.boundary_iou} for n, e in found.items()],
        "judged": _row(last),
        "parity": parity(found["pruned"], last, data.classes),
        "pruning": _interval(found["dense"], found["pruned"]),
    }
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
    write_json(home / "parity.json", {k: facts[k] for k in ("parity", "pruning", "attribution", "judged")})
    write_json(home / "gates.json", facts["gates"])
    return facts


def _data(run: Run) -> Dataset:
    """The images that everything is judged on: those that travelled, where the engine ran out of reach; else all."""
    return parity_data(run) if isinstance(judged_on(run), Replay) else load.dataset(run, "val")


def _row(e: Evaluation) -> dict[str, Any]:
    return {
        "miou": e.miou,
        "iou_per_class": e.iou,
        "boundary_iou": e.boundary_iou,
        "boundary_iou_per_class": e.boundary,
        "pixel_accuracy": e.pixel_accuracy,
    }


def _interval(a: Evaluation, b: Evaluation) -> dict[str, Any]:
    difference, low, high = miou_difference(a.matrices, b.matrices)
    return {"miou_difference": 100 * difference, "ci95": [100 * low, 100 * high]}


def _latency(run: Run) -> dict[str, Any]:
    """Interleaved pairs dense / pruned on a real image, with the interval of the ratio."""
    dense, small = engine(run, "dense"), engine(run, "pruned")
    if dense.precision != small.precision:
        raise EngineError(
            f"the dense engine runs at {dense.precision}, the pruned one at {small.precision}: not compared"
        )
    image, runs = _data(run)[0][0][None], run.recipe.deploy.latency_runs
    found = race(
        lambda n: judged_on(run).pairs(dense, small, image, n),
        pairs=runs,
        most=2000 if run.recipe.budget.is_latency and not isinstance(judged_on(run), Replay) else runs,
    )
    slow, fast, warm = found.slow, found.fast, found.warm
    median, low, high = time_ratio(slow, fast)
    records = [
        measurement(times, w, backend=e.backend, precision=e.precision, device=e.device).record()
        for e, times, w in ((dense, slow, warm[0]), (small, fast, warm[1]))
    ]
    return {
        "dense_latency": records[0],
        "latency": records[1],
        "speedup": {"median": median, "ci95": [low, high]},
        "machine": judged_on(run).fingerprint(),
        "boundaries": judged_on(run).boundaries(small, image),
        "budget": _budget(run, found) if run.recipe.budget.is_latency else None,
        "layers": _layers(run),
    }


def _budget(run: Run, found: Race) -> dict[str, Any]:
    """The engine that ships against the budget, in the milliseconds of this very race."""
    dense = float(np.median(found.slow))
    limit = latency.limit_of(run, dense)
    achieved, low, high = (dense * share for share in (found.share, found.low, found.high))
    return {"dense": dense, "limit": limit, "achieved": achieved, "ci95": [low, high], "met": high <= limit}


def _layers(run: Run) -> dict[str, Any] | None:
    """Dense and pruned engine layer by layer; None where the backend does not tell."""
    graphs = [run.folder / "simplify" / f"{role}.onnx" for role in ROLES]
    try:
        times = [
            judged_on(run).layers(_built(engine(run, role).path, g), precision(run))
            for role, g in zip(ROLES, graphs, strict=True)
        ]
    except EngineError as error:
        run.console.print(f"[dim]no times by layer: {error}[/dim]")
        return None
    step = run.facts["profile"].get("step") or run.target.channel_step
    told = read_json(run.folder / "prune" / "widths.json")
    return explain((graphs[0], graphs[1]), (times[0], times[1]), step, told["convolutions"], told["removed"])


def _built(path: Path, graph: Path) -> Path:
    """OpenVINO's own file, which alone holds what INT8 has become; else the graph."""
    return path if path.suffix == ".xml" else graph


def _gates(run: Run, facts: dict[str, Any]) -> list[gating.Gate]:
    limits, p, judged = run.recipe.deploy.gates, facts["parity"], facts["judged"]
    ci = p["miou_difference_ci95"]
    found = gating.at_most("miou_drop", limits.miou_drop, p["miou_difference"], f"95 % [{ci[0]:+.3f}, {ci[1]:+.3f}]")
    found += gating.at_most("class_drop", limits.class_drop, p["worst_class_difference"], p["worst_class"])
    found += gating.at_most("boundary_drop", limits.boundary_drop, p["boundary_difference"])
    found += gating.at_least("pixel_agreement", limits.pixel_agreement, p["pixel_agreement"])
    found += gating.no_drop("pruning_drop", limits.pruning_drop, facts["pruning"]["miou_difference"])
    found += gating.at_least("min_miou", limits.min_miou, 100 * judged["miou"])
    if facts["budget"]:
        budget = facts["budget"]
        found.append(
            gating.Gate(
                "latency", round(budget["limit"], 4), budget["ci95"][1], budget["met"],
                f"ms, upper end of 95 %; p50 {budget['achieved']:.3f}, {budget['achieved'] / budget['limit']:.1%} of the budget",
            )
        )  # fmt: skip
    if facts["measured"]:
        found += gating.at_least("min_speedup", limits.min_speedup, facts["speedup"]["ci95"][0], "lower end of 95 %")
    return found


def _keep_pictures(run: Run, found: dict[str, Evaluation], last: Evaluation, count: int = 4) -> None:
    """Masks of the images where the engine agrees least with the dense network: those are worth looking at."""
    data = _data(run)
    order = np.argsort(agreement_per_image(found["dense"], last), kind="stable")
    chosen = [int(order[i]) for i in np.linspace(0, len(order) - 1, min(count, len(order))).astype(int)]
    arrays = {
        "index": np.array(chosen),
        "images": np.stack([data[i][0] for i in chosen]),
        "labels": np.stack([data[i][1] for i in chosen]),
        "dense": found["dense"].masks[chosen],
        "pruned": found["pruned"].masks[chosen],
        "engine": last.masks[chosen],
    }

    def save(beside: Any) -> None:
        with open(beside, "wb") as handle:
            np.savez_compressed(handle, **arrays)  # type: ignore[arg-type]

    replace_with(run.folder / "verify" / "masks.npz", save)
