"""The stages from a recipe and a target to a verified engine, in order: the table of contents of the program.

Each stage reads files and writes files under `runs/<recipe>@<target>/`. The manifest keeps, for every finished stage, a
key (hash of what went in), its files' hashes, its facts and its seconds, sealed. A stage whose record and files still fit is
skipped, so a killed run goes on behind its last whole stage, and in a stage that trains or measures at its last notes.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from rich.console import Console
from rich.markup import escape

import edgeprune
from edgeprune import progress
from edgeprune.errors import DeviceError, EngineError
from edgeprune.files import hash_obj, lock, read_json, sha256, write_json
from edgeprune.progress import doing
from edgeprune.recipe import Recipe
from edgeprune.runtime import BACKENDS
from edgeprune.stages import brought, deploy, early, environment, finetune, manifest, results
from edgeprune.stages.inputs import inputs, known_then, of_target, plain
from edgeprune.stages.run import Run
from edgeprune.stages.table import STAGES, Stage
from edgeprune.stages.variant import another_variant
from edgeprune.target import Target
from edgeprune.tasks import METRICS


def run(
    recipe: Recipe, target: Target, runs_dir: Path, console: Console | None = None, as_it_stands: bool = False,
    result: Path | None = None, since: str | None = None, until: str = "report",
) -> int:  # fmt: skip
    """Run every stage; returns the exit status (0 gates met, 3 a gate failed, 4 no device to measure on).

    Args:
        as_it_stands: the networks are those that lie there, whatever program made them; nothing is trained, cut or exported.
        result: a result.zip that was brought from the device; it is kept in the run's folder once all of it fits.
        since: the first stage that is done; those before are taken as they stand.
        until: the last stage that is done.

    Raises:
        EdgepruneError: one clear line; finished stages stay finished.
    """
    team = _team()
    console = console or progress.console(quiet=not team.is_main_process)
    job = _job(recipe, target, runs_dir, console)
    names = [s.name for s in STAGES]
    if as_it_stands:
        since = next(s.name for s in STAGES if s.brought)
    made = names.index(since) if since else 0
    todo = STAGES[made : names.index(until) + 1]
    if not team.is_main_process:
        for stage in (s for s in todo if s.trains):
            _follow(job, stage)
        return 0
    if target.backend == "inductor" and (missing := BACKENDS["inductor"].why_not(target.device)):
        raise DeviceError(f"{target.name}: {missing}; its engines are code, compiled and run on one machine")
    if not as_it_stands:
        environment.check(job)
    with lock(job.folder):
        key = _first_key(job, team.num_processes)
        maker = f"edgeprune {'run makes it again, and a new bundle' if as_it_stands else 'prune makes it, by the same settings'}"
        for stage in STAGES[:made]:
            key = _standing(job, stage, maker)
        if since and not as_it_stands:
            finetune.tuned(job)  # refused before anything is replaced
            _asked_for(job)
        elif not since:
            done = [_by_these_keys(job, stage) for stage in STAGES[:3]]  # up to the cut
            if not all(done):
                early.check(job, rehearsed=done[0])
            if until != "prune" or not all(done):  # else what was made of the cut since stands
                if told := another_variant(job.folder, recipe):
                    console.print(told, style="yellow", markup=False, highlight=False, soft_wrap=True)
                _asked_for(job)
        if result:
            brought.check(job, result)
        with brought.kept(job, result) if result else nullcontext():
            for stage in todo:
                key = _one(job, stage, key)
        return int(job.facts[until].get("exit_status", 0))


def _asked_for(job: Run) -> None:
    """Note what the folder's results are of."""
    write_json(job.folder / "recipe.json", job.recipe.model_dump(mode="json"))
    write_json(job.folder / "target.json", job.target.model_dump(mode="json"))


def _by_these_keys(job: Run, stage: Stage) -> bool:
    """Was the stage done, by the same keys of the recipe?"""
    record = manifest.record(job.folder, stage.name)
    return record is not None and record["recipe"] == hash_obj(_parts(job, stage))


def dense(recipe: Recipe, target: Target, runs_dir: Path, console: Console) -> Path:
    """Only the first stage: the dense network's weights, which other runs may take as their checkpoint.

    Raises:
        EdgepruneError: one clear line.
    """
    job = _job(recipe, target, runs_dir, console)
    with lock(job.folder):
        _one(job, STAGES[0], _first_key(job, _team().num_processes))
    return job.folder / "load" / "weights.safetensors"


def _job(recipe: Recipe, target: Target, runs_dir: Path, console: Console) -> Run:
    torch.manual_seed(recipe.seed)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    torch.set_flush_denormal(True)  # near-zero weights of a pruned network otherwise cost up to 35x on CPUs
    return Run(recipe, target, Path(runs_dir) / f"{recipe.name}@{target.name}", console)


def _team() -> PartialState:
    """The processes. The others wait for the first one while it measures, for longer than torch's ten minutes."""
    return PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=7))


def _one(job: Run, stage: Stage, key: str) -> str:
    """Do a stage, or find that it was done; the hash of all that the next one hangs on."""
    with doing(stage.name, job.console):
        basic = _stage_key(job, stage, key)
        key = _asking_key(job, stage, basic) if stage.asks else basic
        files = _do(job, stage, key)
    if stage.plans:  # a board that is there now costs no training by itself
        return hash_obj([basic, job.facts[stage.name], files])
    return hash_obj([key, files])


def _standing(job: Run, stage: Stage, maker: str) -> str:
    """Take a stage as it was done; as `_one`, but by its record alone. `maker` says what would make it.

    Raises:
        EngineError: it was not done by this recipe, or something of it is missing.
    """
    home, record, parts = job.folder / stage.name, manifest.record(job.folder, stage.name), _parts(job, stage)
    results.bring_back(home)
    old = manifest.earlier(job.folder, stage.name) if record is None else None
    if old:
        record, parts = old, known_then(_parts(job, stage, then=True), read_json(job.folder / "recipe.json"))
    if record is None:
        wrong = manifest.changed(job.folder, stage.name) or "has not been done"
    elif damaged := results.damaged(job.folder, record["files"]):
        wrong = f"{damaged} is missing or damaged"
    elif record["recipe"] != hash_obj(parts):
        wrong = "was done with other keys of the recipe"
    else:
        if old:
            job.console.print(
                f"stage {stage.name}: its record is of an earlier version, without a seal; its files are whole, its facts are taken as "
                "they stand",
                style="yellow", markup=False, soft_wrap=True,
            )  # fmt: skip
        _take_over(job, stage, record)
        return hash_obj([record["key"], record["files"]])
    raise EngineError(f"{job.folder}: stage {stage.name}: {wrong}; {maker}")


def _first_key(job: Run, processes: int) -> str:
    """Hash of all that every stage hangs on. (Not the target: the dense network is the same for all.)"""
    with doing("hashing the checkpoint and the data", job.console):
        return hash_obj([edgeprune.__version__, inputs(job.recipe), processes])


def _stage_key(job: Run, stage: Stage, key: str) -> str:
    parts = _parts(job, stage)
    if files := stage.files(job.recipe):
        parts["files"] = [sha256(Path(path).expanduser()) for path in files]
    if stage.brought and (job.folder / stage.brought).exists():
        parts[stage.brought] = sha256(job.folder / stage.brought)
    if stage.asks:
        parts["target"] = of_target(job.target)
    return hash_obj([key, stage.name, parts, {name: version(name) for name in stage.packages}])


def _parts(job: Run, stage: Stage, then: bool = False) -> dict[str, Any]:
    """The keys of the recipe that a stage hangs on; `then`: in the version before."""
    known = stage.then(job.recipe) if then and stage.then else (*stage.depends, *stage.also(job.recipe))
    return {name: plain(_at(job.recipe, name)) for name in known}


def _at(part: Any, name: str) -> Any:
    """What stands at a dotted key; None behind a section that is null."""
    for key in name.split("."):
        part = getattr(part, key, None)
    return part


def _asking_key(job: Run, stage: Stage, key: str) -> str:
    """The key with the device that can be asked now, how it is set, and its backend's version; those of the time when the stage was
    done, while the device is out of reach."""
    on = deploy.device(job)
    if on.why_not() is None:
        job.kept["asked"] = [job.target.host, on.version(), on.identity()]
        return hash_obj([key, job.kept["asked"]])
    record = manifest.record(job.folder, stage.name) or {}
    asked = record.get("asked")
    job.kept["asked"] = asked if asked and record["key"] == hash_obj([key, asked]) else None
    return hash_obj([key, job.kept["asked"]])


def _follow(job: Run, stage: Stage) -> None:
    """A helping process: take part in the main one's training, or take over what it found done before."""
    known, job.key = broadcast_object_list([None, ""])
    job.facts[stage.name] = stage.work(job) if known is None else known


def _do(job: Run, stage: Stage, key: str) -> dict[str, str]:
    """Do a stage, or find that it was done; gives its files' hashes."""
    job.key = key
    home, record = job.folder / stage.name, manifest.record(job.folder, stage.name)
    results.bring_back(home)  # of a stage that was killed
    if why := None if stage.always else manifest.changed(job.folder, stage.name):
        job.console.print(f"[yellow]{escape(why)}; it is done again[/yellow]")
    if record and record["key"] == key and not stage.always:
        damaged = results.damaged(job.folder, record["files"])
        if damaged is None:
            _take_over(job, stage, record)
            if stage.trains:
                broadcast_object_list([record["facts"], key])
            return record["files"]
        job.console.print(
            f"[yellow]{escape(str(job.folder / damaged))}: missing or damaged; stage {stage.name} is done again[/yellow]"
        )
    job.console.print(f"[bold]{stage.name}[/bold]")
    for told in () if stage.always else ("report.json", "report.html"):  # of what is no longer so
        (job.folder / told).unlink(missing_ok=True)
    with results.set_aside(home, key):
        if stage.trains:
            broadcast_object_list([None, key])
        before, started = results.spent_before(home, key), time.perf_counter()
        job.facts[stage.name] = facts = stage.work(job)
        seconds = before + time.perf_counter() - started
    files = {str(f.relative_to(job.folder)): sha256(f) for f in results.of(home)}
    if facts.get("archive"):
        files[str(Path(facts["archive"]).relative_to(job.folder))] = sha256(facts["archive"])
    job.timings.append(_timing(job, stage.name, seconds, False))
    versions = {name: version(name) for name in stage.packages}
    manifest.keep(job.folder, stage.name, {
        "key": key, "recipe": hash_obj(_parts(job, stage)), "seconds": seconds, "versions": versions, "facts": facts, "files": files,
        **({"asked": job.kept["asked"]} if stage.asks else {}),
    })  # fmt: skip
    (home / "checkpoint.pt").unlink(missing_ok=True)  # it has served; the weights are there
    return files


def _take_over(job: Run, stage: Stage, record: dict[str, Any]) -> None:
    job.facts[stage.name] = record["facts"]
    job.console.print(f"[dim]{stage.name:<9} done before ({record['seconds']:.0f} s), skipped[/dim]")
    job.timings.append(_timing(job, stage.name, record["seconds"], True))


def _timing(job: Run, name: str, seconds: float, skipped: bool) -> dict[str, Any]:
    key = METRICS[job.recipe.task].key
    return {"name": name, "seconds": round(seconds, 3), "skipped": skipped, key: job.facts[name].get(key)}
