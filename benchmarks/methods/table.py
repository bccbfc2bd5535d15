"""Every method under one recipe: the same data, budget in measured milliseconds, fine-tuning and engine; resumable.

    python benchmarks/methods/table.py [streets] [--seeds 3] [--methods sirfp,cap,…] [--budget 0.6x] [--runs-dir runs/methods]
    python benchmarks/methods/table.py camvid --root /data/camvid --seeds 1

It is `edgeprune compare` with the settings below. How the budget is shared out between layers is the same for all, so that
what differs is what a criterion says of channels: the even share of each layer with `--set prune.allocate=uniform`, else the
device's table and the measured loss of each method's own channels, without the contest. Methods that learn in training (cap,
mtp, acosp, dcfp, ns) get a third of the fine-tuning's steps before they score; their time is in the table.

Writes streets.{json,md} or camvid.{json,md} beside this file.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
METHODS = "sirfp,cap,mtp,acosp,dcfp,ns,fpgm,bn_scale,taylor,halp,group_norm,l1,l2,random"
SCHEDULE = "{steps: 300, batch: 8, optimizer: adamw, lr: 0.001, weight_decay: 0.01, warmup_steps: 20, autocast: bf16}"
COMMON = [
    "prune.method=cap", f"prune.sparsity={SCHEDULE}", "prune.contest_steps=0", "train.autocast=bf16",
    "finetune.autocast=bf16",
]  # fmt: skip
DATA = {
    "streets": ["data.args={train: 320, val: 320}"],
    "camvid": ["data={name: camvid, root: ROOT, size: [192, 256]}", "train.steps=2000"],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", choices=list(DATA), default="streets")
    parser.add_argument("--root", default="../shared/data/camvid", help="of CamVid")
    parser.add_argument("--seeds", default="3")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--budget", default="0.6x", help="of the dense engine's measured latency")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--runs-dir", default="runs/methods")
    args = parser.parse_args()
    settings = [*COMMON, *DATA[args.data], f"budget.latency={args.budget}", *args.set]
    command = [
        sys.executable, "-m", "edgeprune", "compare", "quickstart", "--methods", args.methods, "--seeds", args.seeds,
        "--runs-dir", args.runs_dir, "--out", str(HERE / args.data),
    ]  # fmt: skip
    for setting in settings:
        command += ["--set", setting.replace("ROOT", args.root)]
    return subprocess.call(command)


if __name__ == "__main__":
    sys.exit(main())
