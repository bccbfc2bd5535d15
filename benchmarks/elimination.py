"""The greedy elimination (EHGP): incremental O(C^2) against re-summing every step, as ratios in one run.

python benchmarks/elimination.py
"""

from __future__ import annotations

import json
import platform
import time
from datetime import date
from pathlib import Path

import numpy as np

from edgeprune.prune.clique import eliminate


def naive(redundancy: np.ndarray) -> None:
    """Re-sum all living rows at every step: O(C^3)."""
    r = redundancy.copy()
    np.fill_diagonal(r, 0)
    alive = np.ones(len(r), bool)
    for _ in range(len(r)):
        sums = np.where(alive, r.sum(1), -np.inf)
        k = int(np.argmax(sums))
        alive[k] = False
        r[k], r[:, k] = 0, 0


def seconds(work, repeats: int) -> float:
    """The least of several times."""
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best


if __name__ == "__main__":
    rows = []
    print(f"{'channels':>9} {'ours, ms':>10} {'naive, ms':>10} {'ratio':>7}")
    for channels in (256, 512, 1024, 2048):
        random = np.random.default_rng(0).random((channels, channels))
        matrix = (random + random.T) / 2
        ours = seconds(lambda m=matrix: eliminate(m), 3)
        slow = seconds(lambda m=matrix: naive(m), 1) if channels <= 1024 else None
        rows.append({"channels": channels, "ours_ms": 1000 * ours, "naive_ms": slow and 1000 * slow})
        ratio = f"{slow / ours:7.1f}" if slow else "   not run"
        print(f"{channels:>9} {1000 * ours:>10.2f} {1000 * slow if slow else float('nan'):>10.1f} {ratio}")
    result = {"date": date.today().isoformat(), "machine": platform.processor() or platform.machine(), "rows": rows}
    Path(__file__).with_name(f"elimination-{result['date']}.json").write_text(json.dumps(result, indent=1) + "\n")
