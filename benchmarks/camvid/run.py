"""The study on CamVid: every method, network and budget under one recipe, each row judged on its own measured engine.

    benchmarks/camvid/run --root /data/camvid                       all rows of this machine's scale, those that matter most first
    benchmarks/camvid/run --root /data/camvid --network streetnet --budget 0.5x --method edgeprune,sirfp --seed 0
    benchmarks/camvid/run --scale gpu --root /data/camvid           full resolution and widths, where there is a GPU to train on
    benchmarks/camvid/run … --results mine --runs-dir mine/runs     to compare with what is here: nothing that is here is taken over
    benchmarks/camvid/run --list                                    what is done and what is missing
    benchmarks/camvid/again                                         times all rows' engines once more, in one sitting
    benchmarks/camvid/report                                        docs/results.md from the raw results

Rows that are done are skipped, one that was killed goes on where it was, one that failed is told and tried again with --again.
Several processes may work at once: each takes rows that no other is at (pin each to its own core and the latencies
still hold, since every engine is timed in turn with its dense one). One file a row in results/<scale>/, or where --results says (rows of another machine
than that folder's: a folder of their own, see study.PLACES).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import rows
import study

from edgeprune import progress
from edgeprune.errors import EdgepruneError, RunLockedError
from edgeprune.files import read_json, write_json
from edgeprune.target import load_target


def wanted(args: argparse.Namespace, scale: study.Scale) -> list[study.Row]:
    """The rows that were asked for, in order.

    Raises:
        SystemExit: a name that is not there.
    """
    known = {"network": list(scale.networks), "budget": list(study.BUDGETS), "method": list(study.ENTRIES)}
    asked = {k: [v for v in (getattr(args, k) or "").split(",") if v] for k in known}
    for kind, names in asked.items():
        for name in names:
            if name not in known[kind]:
                sys.exit(f"--{kind}: {name!r} is unknown; there are {', '.join(known[kind])}")
    seeds = [int(s) for s in args.seed.split(",")] if args.seed else list(study.SEEDS)
    ablations = args.ablations or any(m not in study.METHODS for m in asked["method"])
    return [
        r
        for r in study.rows(scale, ablations)
        if r.seed in seeds
        and (not asked["network"] or r.network in asked["network"])
        and (not asked["budget"] or r.budget in asked["budget"])
        and (not asked["method"] or r.entry in asked["method"])
    ]


def listing(found: list[study.Row], home: Path) -> str:
    """What is done, failed, missing."""
    lines = []
    for row in found:
        path = home / f"{row.name}.json"
        told = read_json(path) if path.exists() else None
        state = (
            "-"
            if told is None
            else told.get("failed")
            or f"{told['table']['score']:.2f} mIoU, {told['table']['share']:.3f}x of the dense engine's time"
        )
        lines.append(f"{row.name:<52} {state}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="../shared/data/camvid", help="of CamVid")
    parser.add_argument(
        "--scale", choices=list(study.SCALES), help="default: that of --results, or gpu where there is one"
    )
    parser.add_argument("--target", default="cpu", help="where engines run; budgets are of its dense engine's latency")
    for name in ("network", "budget", "method", "seed"):
        parser.add_argument(f"--{name}", help="only these, divided by commas")
    parser.add_argument("--ablations", action="store_true", help="the ablations, too")
    parser.add_argument("--again", action="store_true", help="try failed rows once more")
    parser.add_argument("--list", action="store_true", help="say what is done, and run nothing")
    parser.add_argument(
        "--results", type=Path, help="folder of the rows' files, instead of results/ beside this script"
    )
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/camvid"))
    args = parser.parse_args()
    name, home = rows.where(args.scale, args.results)
    scale = study.SCALES[name]
    found = wanted(args, scale)
    if args.list:
        print(listing(found, home))
        return 0
    if not Path(args.root).is_dir():
        sys.exit(f"--root: {args.root} does not exist; give the folder of CamVid")
    console, target, failed = progress.console(), load_target(args.target), 0
    for number, row in enumerate(found, 1):
        path = home / f"{row.name}.json"
        if path.exists() and not (args.again and "failed" in read_json(path)):
            continue
        console.rule(f"{number} of {len(found)}: {row.name}")
        try:
            told = rows.run(scale, row, args.root, target, args.runs_dir / name, console)
        except RunLockedError:
            console.print(f"{row.name}: another process is at it")
            continue
        except EdgepruneError as error:
            console.print(f"[red]{row.name}: {error}[/red]")
            why = str(error).replace(f"{args.runs_dir / name}/", "")  # where the runs lie here says nothing elsewhere
            told, failed = {"schema": rows.SCHEMA, **row._asdict(), "failed": why}, failed + 1
        write_json(path, told)
        if "table" in told:
            console.print(
                f"[bold]{row.name}: {told['table']['score']:.2f} mIoU at {told['table']['share']:.3f}x[/bold]"
            )
    print(listing(found, home))
    return 3 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
