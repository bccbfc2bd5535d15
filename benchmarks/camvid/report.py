"""docs/results.md and its figures, from the raw results alone.

    benchmarks/camvid/report [--scale cpu]

The words under *Reading* are those of reading.md beside this file; everything else is counted from results/<place>/*.json (`study.PLACES`).
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import figures
import numpy as np
import study
from tables import Pick, Record, in_common, paired, several, table, told

from edgeprune.files import read_json, write_atomic

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"


def read(scale: str) -> dict[str, list[Record]]:
    """Place -> the rows that are there, in the study's order; places without any are left out."""
    known = list(study.rows(study.SCALES[scale], ablations=True))
    found = {}
    for place in (p for p, (of, _) in study.PLACES.items() if of == scale):
        paths = [HERE / "results" / place / f"{row.name}.json" for row in known]
        if there := [read_json(path) for path in paths if path.exists()]:
            found[place] = there
    return found


def picker(records: Sequence[Record]) -> Pick:
    """Picks among those that were measured."""
    good = [r for r in records if "table" in r]
    return lambda **wanted: [r for r in good if all(r[k] == v for k, v in wanted.items())]


def glance(picks: dict[str, Pick], networks: Sequence[str]) -> list[str]:
    """The default against the hardest of torch-pruning, and of all others, to beat: of those with two seeds in common, where there are
    any, the one over which its lead is the least; the rivals' figures and the differences are of these seeds."""
    lines = [
        "| network | budget | engines on | edgeprune's default | the closest of torch-pruning | the default's lead | the closest of the others | the default's lead |",
        "|---" * 8 + "|",
    ]
    for network in networks:
        for budget, (place, pick) in product(study.BUDGETS, picks.items()):
            ours = pick(network=network, budget=budget, entry="edgeprune")
            if not ours:
                continue
            line = [network, budget, study.PLACES[place][1], f"{several(ours)['score']:.2f}"]
            for names in (study.OPPONENTS, [m for m in study.METHODS if m != "edgeprune" and m not in study.OPPONENTS]):
                rivals = [found for m in names if (found := pick(network=network, budget=budget, entry=m))]
                if not rivals:
                    line += ["-", "-"]
                    continue
                # one good seed is no better method
                best = max(rivals, key=lambda rows: (min(len(paired(ours, rows)), 2), -_lead(ours, rows)))
                difference, same = paired(ours, best), in_common(ours, best)
                own = "" if len(same) in (0, len(ours)) else f", the default {several(same)['score']:.2f} there"
                line.append(
                    f"{several(in_common(best, ours) or best)['score']:.2f} ({study.ENTRIES[best[0]['entry']].title}{own})"
                )
                line.append(told(difference))
            lines.append("| " + " | ".join(line) + " |")
    return lines if len(lines) > 2 else ["The default's own rows are still to be run."]


def _lead(ours: Sequence[Record], theirs: Sequence[Record]) -> float:
    found = paired(ours, theirs)
    return float(np.mean(found)) if found else float("inf")


def page(scale: str, places: dict[str, list[Record]]) -> str:
    """The page; writes the figures beside it."""
    cfg, picks = study.SCALES[scale], {place: picker(records) for place, records in places.items()}
    good = [r for records in places.values() for r in records if "table" in r]
    lines = [*_intro(scale, good), "## At a glance", "", *glance(picks, list(cfg.networks)), "", *_reading()]
    for place, pick in picks.items():
        for network in (n for n in cfg.networks if pick(network=n)):
            lines += _network(network, place, pick)
            lines += _at_lengths(scale, network, place, pick)
            lines += _ablations(pick, network, place)
    return "\n".join([*lines, *_failed(places)])


def _failed(places: dict[str, list[Record]]) -> list[str]:
    """Rows that could not be had; those that failed alike share a line."""
    rows: dict[tuple[str, str], dict[str, list[str]]] = {}
    for place, records in places.items():
        for r in (r for r in records if "failed" in r):
            at, why = (
                f"{r['network']} at {r['budget']}, {study.PLACES[place][1]}",
                re.sub(r"\d+\.\d{2,}", "…", r["failed"]),
            )
            rows.setdefault((at, why), {}).setdefault(study.ENTRIES[r["entry"]].title, []).append(str(r["seed"]))
    lines = []
    for (at, why), titles in rows.items():
        who = "; ".join(f"{title} ({', '.join(seeds)})" for title, seeds in titles.items())
        lines.append(f"- {at}: {who}: {why}")
    return ["## What could not be had", "", "Seeds stand in brackets.", "", *lines, ""] if lines else []


def _reading() -> list[str]:
    path = HERE / "reading.md"
    return ["## Reading", "", path.read_text().strip(), ""] if path.exists() else []


def _network(network: str, place: str, pick: Pick) -> list[str]:
    mine, on = pick(network=network), study.PLACES[place][1]
    figure = network if place == study.PLACES[place][0] else f"{network}-{place}"
    dense = {r["seed"]: r for r in mine}.values()
    scores, first = [r["table"]["dense_score"] for r in dense], next(iter(dense))
    lines = [
        f"## {network}, engines on {on}", "",
        f"Dense: {np.mean(scores):.2f}{f' ± {np.std(scores, ddof=1):.2f}' if len(scores) > 1 else ''} mIoU over {len(scores)} "
        f"seed{'s' if len(scores) > 1 else ''}, {first['dense']['params'] / 1e6:.3f} M parameters, {first['dense']['macs'] / 1e9:.3f} GMACs, "
        f"{first['dense']['latency']['p50'] if first['dense'].get('latency') else first['table']['ms'] / first['table']['share']:.2f} ms.", "",
    ]  # fmt: skip
    trained = {(r["seed"], r["dense_weights"]) for r in mine}
    if len(trained) > len(dense):
        lines += [
            f"The rows come from {len(trained)} dense networks of {len(dense)} seeds (some were trained anew, on another machine or day); "
            "differences are taken only between rows of the very same one.", "",
        ]  # fmt: skip
    points: dict[str, list[tuple[float, float, float]]] = {}
    for budget in sorted(study.BUDGETS, key=lambda b: -float(b[:-1])):
        if lines_of_it := table(pick, network, budget, list(study.METHODS)):
            lines += [f"### {network} at {budget}, {on}", "", *lines_of_it]
        for entry in study.METHODS:
            if found := pick(network=network, budget=budget, entry=entry):
                row, lost = several(found), [r["table"]["score"] - r["table"]["dense_score"] for r in found]
                spread = float(np.std(lost, ddof=1)) if len(lost) > 1 else 0.0
                points.setdefault(entry, []).append((row["again"] or row["share"], float(np.mean(lost)), spread))
    figures.front(DOCS / "results" / f"{figure}.svg", points, f"{network} on CamVid, engines on {on}")
    lines += [f"![accuracy against measured latency](results/{figure}.svg)", ""]
    shown = {
        m: pick(network=network, budget="0.5x", entry=m, seed=0)
        for m in ("edgeprune", "sirfp", "tp_group_norm", "tp_taylor", "random")
    }
    shown = {m: found[0] for m, found in shown.items() if found}
    if shown:
        columns = {
            "dense": next(iter(shown.values()))["masks"]["dense"],
            **{m: r["masks"]["pruned"] for m, r in shown.items()},
        }
        figures.masks(
            DOCS / "results" / f"{figure}-masks.svg",
            columns,
            f"{network} at 0.5x, seed 0: masks on the first two validation images",
        )
        lines += [f"![masks side by side](results/{figure}-masks.svg)", ""]
    return lines


def _at_lengths(scale: str, network: str, place: str, pick: Pick) -> list[str]:
    """Rows that were fine-tuned for longer or shorter: the figure and the tables of each budget."""
    lines: list[str] = []
    for budget in study.ABLATED:
        at, rest = f"{network} at {budget}, {study.PLACES[place][1]}", []
        for length, (_, words) in study.LENGTHS.items():
            entries = [f"{name}_{length}" for name in study.LENGTHENED]
            if any(pick(network=network, budget=budget, entry=m) for m in entries):
                rest += [f"### Fine-tuned {words}", "", *table(pick, network, budget, entries, f"edgeprune_{length}")]
        if rest:
            figure = f"{network}-{place}-{budget}-lengths.svg"
            _lengths_figure(DOCS / "results" / figure, scale, study.Row(network, budget, "", 0), pick, at)
            lines += [
                f"## Shorter and longer fine-tuning, {at}",
                "",
                f"![accuracy against steps](results/{figure})",
                "",
            ]
            lines += rest
    return lines


def _lengths_figure(path: Path, scale: str, row: study.Row, pick: Pick, at: str) -> None:
    """Every seed has its own line: some lengths were run on fewer seeds than others, and means of unlike seeds make no curve."""
    curves: dict[str, dict[int, list[tuple[float, float]]]] = {}
    for name in study.LENGTHENED:
        for entry in (name, *(f"{name}_{length}" for length in study.LENGTHS)):
            tuned = study.recipe(study.SCALES[scale], row._replace(entry=entry), "", "-")["finetune"]
            for r in pick(network=row.network, budget=row.budget, entry=entry):
                point = (tuned.get("steps") or tuned["epochs"], r["table"]["score"] - r["table"]["dense_score"])
                curves.setdefault(name, {}).setdefault(r["seed"], []).append(point)
    figures.lengths(path, curves, f"{at}: how long each method is fine-tuned, each seed")


def _ablations(pick: Pick, network: str, place: str) -> list[str]:
    lines: list[str] = []
    for budget in study.ABLATED:
        at = f"{network} at {budget}, {study.PLACES[place][1]}"
        if any(pick(network=network, budget=budget, entry=m) for m in study.ABLATIONS):
            lines += [
                f"## Ablations, {at}",
                "",
                *table(pick, network, budget, ["edgeprune", "sirfp", *study.ABLATIONS]),
            ]
    return lines


def _intro(scale: str, good: Sequence[Record]) -> list[str]:
    cfg = study.SCALES[scale]
    machines = sorted(
        {f"{r['machine']['cpu']}, {r['machine']['cores']} core{'s' if r['machine']['cores'] > 1 else ''}" for r in good}
    )
    engines = sorted({f"{r['engine']['backend']}, {r['engine']['precision_found']}" for r in good})
    length = lambda s: f"{s['steps']} steps" if "steps" in s else f"{s['epochs']} epochs"  # noqa: E731
    return [
        "# Results on CamVid",
        "",
        "*Made by `benchmarks/camvid/report` from the raw results in `benchmarks/camvid/results/`; do not edit.*",
        "",
        f"Scale **{scale}**: {cfg.title}; images {cfg.size[0]}x{cfg.size[1]}, 367 for training, 101 validation images for every number, 11 "
        f"classes, void ignored. Dense networks are trained for {length(cfg.train)} of {cfg.train['batch']} images from scratch, pruned "
        f"ones fine-tuned for {length(cfg.finetune)} with the dense network as teacher. Methods that learn before they score train for "
        f"{length(cfg.sparsity)} before that, and all others fine-tune for as much longer. Dense weights, data, fine-tuning and device are the "
        "same for all rows of a network and seed; what an entry changes in the recipe's section `prune` stands in `benchmarks/camvid/study.py`. "
        "*edgeprune's default* is the program's own way to share a latency budget out, with `method: group_norm`, `compensate: true` and "
        "`min_keep: 0.05`; other *methods* neither compensate nor keep less than a tenth of a layer; ablations have the default's settings but for what they name.",
        "",
        f"Engines: {'; '.join(engines)}. Machines: {'; '.join(machines)}. Every budget is a share of the dense engine's latency, and every engine "
        "was timed in turn with its dense one; mIoU, boundary IoU and worst class are the built engine's own. `MACs` are fvcore's. "
        "*met* counts the seeds whose engine, measured again after fine-tuning, has the upper end of its 95 % interval under the budget (the "
        "loop met it before, with other weights and at another moment); *again* is the share in a sitting that timed all rows' engines in turns "
        "(`benchmarks/camvid/again`). *minutes* are pruning and fine-tuning, on whatever else the machine did. *worst class* is the worst of any seed.",
        "",
        "One row, again, from a clone (`make` first; CamVid in a layout of [data.md](data.md#camvid-camvid)):",
        "",
        f"    benchmarks/camvid/run --scale {scale} --root /data/camvid --network {next(iter(cfg.networks))} --budget 0.5x --method sirfp --seed 0 --results mine --runs-dir mine/runs",
        "",
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=list(study.SCALES), default="cpu")
    args = parser.parse_args()
    places = read(args.scale)
    if not any("table" in r for records in places.values() for r in records):
        sys.exit(f"no results of scale {args.scale} yet; benchmarks/camvid/run makes them")
    write_atomic(DOCS / "results.md", page(args.scale, places))
    print(
        f"{DOCS / 'results.md'}: {', '.join(f'{len(records)} rows on {study.PLACES[p][1]}' for p, records in places.items())}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
