"""Report: `report.json` (the contract for other programs), `report.html`, and a table in the terminal."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import edgeprune
from edgeprune.deploy import page, table
from edgeprune.deploy.headline import headline
from edgeprune.files import read_json, sha256, write_atomic, write_json
from edgeprune.stages import load
from edgeprune.stages.deploy import precision
from edgeprune.stages.run import Run
from edgeprune.stages.verify import counted
from edgeprune.tasks import METRICS

_SCORING = ("scoring_seconds", "criterion_seconds", "training_seconds", "between_seconds")


def report(run: Run) -> dict[str, Any]:
    """Writes `report.json` and `report.html` into the run's folder; `exit_status` is the command's."""
    content = assemble(run)
    write_json(run.folder / "report.json", content)
    with np.load(run.folder / "verify" / "pictures.npz", allow_pickle=False) as kept:
        pictures = {name: kept[name] for name in kept.files}
    data = load.dataset(run, "val")
    write_atomic(run.folder / "report.html", page.render(content, pictures, data.palette))
    table.show(run.console, content, run.folder)
    files = {name: sha256(run.folder / name) for name in ("report.json", "report.html")}
    return {"exit_status": exit_status(content), "files": files}


def exit_status(content: dict[str, Any]) -> int:
    """0 all gates met, 3 a gate failed, 4 nothing could be measured here."""
    if not all(gate["passed"] for gate in content["gates"]):
        return 3
    return 0 if content["engine"]["measured"] else 4


def assemble(run: Run) -> dict[str, Any]:
    """The whole report as JSON; the contract of schema 1."""
    content = _content(run)
    return {"headline": headline(content), **content}


def _content(run: Run) -> dict[str, Any]:
    facts, data = run.facts, load.dataset(run, "val")
    dense, pruned, verified = facts["load"], facts["finetune"], facts["verify"]
    made = facts["compile"].get("pruned", {})
    speedup = verified["speedup"] or {"median": None, "ci95": None}
    return {
        "schema": 1,
        "edgeprune": edgeprune.__version__,
        "recipe": run.recipe.name,
        "title": run.recipe.title,
        "target": run.target.name,
        "target_title": run.target.title,
        "seed": run.recipe.seed,
        "task": run.recipe.task,
        "metric": asdict(METRICS[run.recipe.task]),
        "data": {
            "name": run.recipe.data.name, "size": list(run.recipe.data.size), "classes": data.classes,
            "train_images": len(load.dataset(run, "train")), "val_images": len(data),
        },
        "method": run.recipe.prune.method,
        "scoring": {k: facts["prune"].get(k, 0.0) for k in _SCORING},
        "training_steps": {
            "load": _steps(run, "load"), "prune": facts["prune"]["training_steps"],
            "judging": facts["prune"].get("judging_steps", 0), "finetune": _steps(run, "finetune"),
        },  # fmt: skip
        "dense": {**dense, "chance": verified["chance"], "latency": verified["dense_latency"]},
        "pruned": {**pruned, "latency": verified["latency"], "against_dense": verified["pruning"]},
        "engine": {
            "measured": verified["measured"],
            "why_not": facts["compile"]["why_not"],
            "path": made.get("path"),
            "backend": made.get("backend") or run.target.backend,
            "route": run.recipe.deploy.route,
            "device": made.get("device"),
            "precision_asked": precision(run),
            "precision_found": made.get("precision_found"),
            "convolutions": made.get("convolutions"),
            "judged_by": "engine" if verified["measured"] else "onnxruntime on the host, the graph that the device gets",
            **verified["judged"],
            **verified["parity"],
            "against_dense": verified["shipped"],
            "dense_latency": verified["dense_latency"],
            "latency": verified["latency"],
        },
        "speedup": {**speedup, "macs_ratio": dense["macs"] / pruned["macs"]},
        "budget": _budget(run),
        "precisions": _precisions(run),
        "contest": facts["prune"]["budget"].get("contest"),
        "layers": verified["layers"],
        "boundaries": verified["boundaries"],
        "widths": read_json(run.folder / "prune" / "widths.json"),
        "attribution": verified["attribution"],
        "stages": run.timings,
        "gates": verified["gates"],
        "proof": facts["prune"]["proof"],
        "machine": verified.get("machine"),
        # by its name: the run's folder may have been moved since
        "bundle": (archive := facts["bundle"].get("archive")) and str(run.folder / Path(archive).name),
    }  # fmt: skip


def _precisions(run: Run) -> dict[str, Any] | None:
    """What competed to ship, and why which of them does; None where the recipe names its precision."""
    found = run.facts["precision"]
    return found if found["chosen"] else None


def _budget(run: Run) -> dict[str, Any]:
    """The budget, and whether what ships meets it: counted on the network, or measured on the engine."""
    planned, verified = run.facts["prune"]["budget"], run.facts["verify"]
    if not run.recipe.budget.is_latency:
        return {**counted(run), "measured": True, "engines_built": 1 if verified["measured"] else 0}
    if not verified["budget"]:
        return {
            **{k: planned[k] for k in ("kind", "limit", "dense", "achieved")}, "measured": False, "estimated": True,
            "met": None, "engines_built": 0, "unit": "ms",
        }  # fmt: skip
    told = run.folder / "prune" / "latency.json"  # not there where the widths were planned on an estimate
    engines = read_json(told)["engines"] if told.exists() else []
    return {
        "kind": planned["kind"], "measured": True, "unit": "ms", "engines_built": planned.get("engines_built", 1),
        **verified["budget"],
        "engines": [{k: e[k] for k in ("predicted", "ms", "low", "high", "limit", "met", "chosen")} for e in engines],
        "prediction": planned.get("prediction"),
    }  # fmt: skip


def _steps(run: Run, stage: str) -> int:
    """Optimiser steps of a stage's training; 0 where it had none."""
    history = run.folder / stage / "history.json"
    return len(read_json(history)) if history.exists() else 0
