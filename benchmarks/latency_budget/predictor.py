"""The predictor on engines that it has not seen: random widths, before and after learning from a few; resumable.

    python benchmarks/latency_budget/predictor.py [NETWORK …] [--precision f32] [--engines 10] [--fit 3] [--threads 1] [--out FOLDER]

Writes error.json and error.md, beside this file where no other folder is told. Pinned to a core (`taskset -c 1`), give
--threads 1: an engine that shares one core between two threads waits for itself, and that is what would be measured.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import networks  # noqa: E402

from edgeprune.files import read_json, write_atomic, write_json  # noqa: E402
from edgeprune.measure.race import race  # noqa: E402
from edgeprune.profile.predict import errors  # noqa: E402
from edgeprune.prune.allocate import select  # noqa: E402
from edgeprune.prune.plan import make_plan  # noqa: E402
from edgeprune.prune.surgery import fold_constants  # noqa: E402
from edgeprune.stages import load, profile  # noqa: E402
from edgeprune.stages.deploy import device  # noqa: E402


def one(name: str, precision: str, home: Path, count: int, fit: int, threads: int) -> dict[str, Any]:
    """Engines of random widths on the device's steps, each group keeping 25 to 100 % around a common share."""
    run = networks.make(name, precision, "0.5x", home, threads=threads)
    networks.profiled(run)
    facts = run.facts["profile"]
    net, graph, scores = networks.parts(run)
    predictor, profiler = profile.predictor_of(run, graph), profile.profiler_of(run)
    rng, step, image = np.random.default_rng(0), facts["step"], load.dataset(run, "val")[0][0][None]
    dense = profile.engine_of(run, net, home / "engines", "dense")
    dense_macs = sum(k.signature.macs(k.inputs, k.outputs) for _, k in predictor.keys(graph.widths()))
    rows = []
    for number in range(count):
        common = rng.uniform(0.25, 0.9)
        widths = {
            g.name: min(
                g.size,
                max(step, round(g.size * float(np.clip(common + rng.uniform(-0.25, 0.25), 0.05, 1)) / step) * step),
            )
            for g in graph.groups
        }
        small, _ = fold_constants(net, graph, make_plan(net, graph, select(scores, widths)), load.example(run))
        made = profile.engine_of(run, small, home / "engines", str(number))
        found = race(lambda n, made=made: device(run).pairs(dense, made, image, n))
        ms = found.share * facts["dense_ms"]
        for key, t in profiler.ensure({key for _, key in predictor.keys(widths)}).items():
            predictor.surfaces[key.signature].exact[key.inputs, key.outputs] = t  # type: ignore[attr-defined]
        macs = sum(k.signature.macs(k.inputs, k.outputs) for _, k in predictor.keys(widths))
        rows.append(
            {
                "ms": ms,
                "interval": [found.low, found.high],
                "predicted": predictor(widths),
                "macs": macs / dense_macs * facts["dense_ms"],
            }
        )
        if number < fit:
            predictor.learn(widths, ms)
        print(name, precision, number, rows[-1], flush=True)
    held = rows[fit:]
    return {
        "dense_ms": facts["dense_ms"], "fitted_to": fit, "rows": rows,
        "table": errors([r["predicted"] for r in held], [r["ms"] for r in held]),
        "macs": errors([r["macs"] for r in held], [r["ms"] for r in held]),
    }  # fmt: skip


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        "| network | precision | engines to fit | held out | MAPE | worst | within 10 % | Spearman | MAPE of MACs |",
        "|" + "---|" * 9,
    ]
    for key, f in found.items():
        name, precision = key.split()
        t = f["table"]
        lines.append(
            f"| {name} | {precision} | {f['fitted_to']} | {t['engines']} | {t['mape']:.1%} | {t['worst']:.1%} | "
            f"{t['within_10_percent']:.0%} | {t['spearman']:.2f} | {f['macs']['mape']:.1%} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(networks.NETWORKS))
    parser.add_argument("--precision", action="append", help="default: f32, bf16 and int8")
    parser.add_argument("--engines", type=int, default=10)
    parser.add_argument("--fit", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="of the engines; 0: as many as there are cores")
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    if args.fit >= args.engines:
        parser.error("--fit: some engines must be held out; more --engines than --fit")
    torch.set_flush_denormal(True)
    out = args.out / "error.json"
    done = read_json(out) if out.exists() else {}
    for network in args.networks:
        for precision in args.precision or ("f32", "bf16", "int8"):
            if f"{network} {precision}" not in done:
                with tempfile.TemporaryDirectory() as folder:
                    done[f"{network} {precision}"] = one(
                        network, precision, Path(folder), args.engines, args.fit, args.threads
                    )
                write_json(out, done)
                write_atomic(args.out / "error.md", table(done))
    print(table(done))
