"""Every method under one recipe: the same data, dense network, widths, fine-tuning and measured latency; resumable.

    python benchmarks/methods/table.py [streets] [--seeds 3] [--methods sirfp,cap,…] [--macs 0.35x] [--runs-dir runs/methods]
    python benchmarks/methods/table.py camvid --root /data/camvid

It is `edgeprune compare --equal-steps` of the quickstart with the settings below. Every layer keeps the same share of its channels,
rounded down to the device's step, and what that leaves of the budget a method's own scores give out step by step: nearly the same
network for all, so that what differs is what a criterion says of channels. (How methods share a budget out as their papers do is
the question of benchmarks/camvid/.)
Methods that learn in training (cap, mtp, acosp, dcfp, ns) get a third of the fine-tuning's steps before they score; the others
fine-tune for as much longer.

For runs of several processes, or beside other work, pin it to a core: `OMP_NUM_THREADS=1 taskset -c 0 python …`.
`camvid` is short: a quarter of its resolution and few steps, so that its mIoU is far from what the network can reach.
Writes streets.{json,md} or camvid.{json,md} beside this file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edgeprune import compare
from edgeprune.compatible import check_pair
from edgeprune.recipe import Recipe, load_recipe
from edgeprune.target import load_target

HERE = Path(__file__).parent
METHODS = "sirfp,cap,acosp,mtp,dcfp,fpgm,taylor,random,ns,bn_scale,halp,group_norm,l1,l2"
SETTINGS = [
    "prune.method=cap",
    "prune.sparsity={steps: 150, batch: 8, optimizer: adamw, lr: 0.001, weight_decay: 0.01, warmup_steps: 20}",
    "prune.allocate=uniform", "prune.compensate=false", "deploy.gates={min_speedup: null, min_miou: null, pruning_drop: null}",
]  # fmt: skip
DATA = {
    "streets": ["data.size=[96, 192]", "data.args={train: 320, val: 320}", "train.steps=1000", "finetune.steps=450"],
    "camvid": ["data={name: camvid, root: ROOT, size: [96, 128]}", "train.steps=1000", "finetune.steps=450"],
}  # fmt: skip
ARGS = {"acosp": {"keep": 0.6}}  # its gates are told beforehand what will stay: about the root of the MACs' share


def wanted(methods: str, settings: list[str]) -> dict[str, Recipe]:
    """Name -> recipe of every method."""
    target, recipe = load_target("cpu"), load_recipe("quickstart", settings)
    found = compare.entries([recipe], methods.split(","), target)
    for name, made in found.items():
        if args := ARGS.get(made.prune.method):
            found[name] = made.model_copy(update={"prune": made.prune.model_copy(update={"args": args})})
            check_pair(found[name], target)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", choices=list(DATA), default="streets")
    parser.add_argument("--root", default="../shared/data/camvid", help="of CamVid")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--macs", default="0.35x", help="of the dense network's; about half of its latency")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/methods"))
    args = parser.parse_args()
    data = [setting.replace("ROOT", args.root) for setting in DATA[args.data]]
    found = wanted(args.methods, [*data, *SETTINGS, f"budget.macs={args.macs}", *args.set])
    return compare.compare(
        found,
        load_target("cpu"),
        args.runs_dir / args.data,
        seeds=range(args.seeds),
        out=HERE / args.data,
        equal_steps=True,
    )


if __name__ == "__main__":
    sys.exit(main())
