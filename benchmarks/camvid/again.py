"""Time the engines of all rows of one network once more, in one sitting and in turns: rows met their budgets at different hours.

    benchmarks/camvid/again --runs-dir runs/camvid                       the rows of this machine's scale whose runs are still there
    benchmarks/camvid/again --network streetnet --results mine --runs-dir mine/runs --rounds 12

In every round each engine is timed in pairs with the dense one of its seed; the order of the rows is drawn anew. Written into the rows'
files as `again`: the median of the rounds' shares of the dense engine's time, and its 95 % interval over the rounds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import rows
import study

from edgeprune.data import open_dataset
from edgeprune.devices import device_of
from edgeprune.files import read_json, write_json
from edgeprune.measure.bootstrap import time_median
from edgeprune.measure.race import in_turns
from edgeprune.progress import Progress
from edgeprune.runtime import Engine
from edgeprune.target import Target, load_target


def engines(target: Target, network: str, home: Path, runs: Path) -> dict[Path, tuple[Engine, Engine]]:
    """Row's file -> (dense, pruned), compiled anew; of the rows that were measured and whose runs are still there, INT8 left out."""
    dense: dict[int, Engine] = {}
    found: dict[Path, tuple[Engine, Engine]] = {}
    for path in sorted(home.glob(f"{network}-*.json")):
        row = read_json(path)
        graphs = runs / f"{path.stem}@{target.name}" / "simplify"
        if "table" not in row or row["entry"] == "int8" or not (graphs / "pruned.onnx").exists():
            continue
        to = graphs.parent / "again"
        precision = row["engine"]["precision_found"]
        if row["seed"] not in dense:
            dense[row["seed"]] = device_of(target).build(graphs / "dense.onnx", to / "dense", precision)
        found[path] = (dense[row["seed"]], device_of(target).build(graphs / "pruned.onnx", to / "pruned", precision))
    return found


def shares(
    target: Target, made: dict[Path, tuple[Engine, Engine]], image: np.ndarray, rounds: int, pairs: int
) -> dict[Path, list[float]]:
    """Each row's share of the dense engine's time, round by round."""
    takes = {path: lambda n, both=both: device_of(target).pairs(*both, image, n) for path, both in made.items()}
    with Progress("again", rounds * len(made), unit="engines") as bar:
        return in_turns(takes, rounds=rounds, pairs=pairs, done=bar.move)


def summary(rounds: list[float]) -> dict[str, Any]:
    """What a row keeps."""
    share, low, high = time_median(np.array(rounds))
    return {"share": share, "ci95": [low, high], "rounds": rounds}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="../shared/data/camvid", help="of CamVid")
    parser.add_argument(
        "--scale", choices=list(study.SCALES), help="default: that of --results, or gpu where there is one"
    )
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--network", help="one of the scale's; default: the first")
    parser.add_argument("--results", type=Path, help="folder of the rows' files, instead of results/<scale>")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/camvid"))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=40, help="a round and row")
    args = parser.parse_args()
    name, home = rows.where(args.scale, args.results)
    scale, target = study.SCALES[name], load_target(args.target)
    network = args.network or next(iter(scale.networks))
    made = engines(target, network, home, args.runs_dir / name)
    if not made:
        sys.exit(f"no row of {network} in {home} has its run under {args.runs_dir / name}")
    image = open_dataset("camvid", args.root, "val", scale.size, limit=1)[0][0][None]
    for path, told in shares(target, made, image, args.rounds, args.pairs).items():
        row = read_json(path)
        row["again"] = summary(told)
        write_json(path, row)
        print(f"{path.stem:<52} {row['table']['share']:.3f}x in its run, {row['again']['share']:.3f}x again")
    return 0


if __name__ == "__main__":
    sys.exit(main())
