"""The page's tables: means over seeds, and differences between rows that pruned the very same dense network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import study

from edgeprune.deploy import fair

Record = dict[str, Any]
Pick = Callable[..., list[Record]]  # (network=, budget=, entry=, seed=): the rows with these
HEAD = (
    "| method | mIoU ± sd (each seed) | to dense | to the default, same seeds | worst class | boundary IoU | MACs | parameters | ms | of dense | again | met | minutes |\n"
    "|---" + "|---:" * 12 + "|"
)


def several(records: Sequence[Record]) -> dict[str, Any]:
    """One line of a table: means over the seeds, each seed's score, the sample's standard deviation of three or more, the worst
    class of any."""
    # rows made before they were counted do not say which steps judged widths; the page does not show them
    row = fair.summary([{"judging_steps": 0} | r["table"] | {"entry": r["entry"]} for r in records])[0]
    title = study.ENTRIES[records[0]["entry"]].title
    return row | {
        "title": title,
        "boundary": row["more"],
        "scores": [r["table"]["score"] for r in records],
        "again": _again(records),
    }


def _again(records: Sequence[Record]) -> float | None:
    """Mean share of the dense engine's time in the sitting that timed all of them; None where one was not there."""
    return None if any("again" not in r for r in records) else float(np.mean([r["again"]["share"] for r in records]))


def cells(row: dict[str, Any], to_default: str) -> str:
    """A line of a table."""
    spread = f" ± {row['spread']:.2f}" if len(row["scores"]) > 2 else ""
    spread += f" ({', '.join(f'{s:.2f}' for s in row['scores'])})" if len(row["scores"]) > 1 else ""
    again = "" if row["again"] is None else f"{row['again']:.3f}x"
    return (
        f"| {row['title']} | {row['score']:.2f}{spread} | {row['score'] - row['dense_score']:+.2f} | {to_default} | "
        f"{row['worst_class']} {-row['worst_class_loss']:+.1f} | {row['boundary']:.2f} | {row['macs_share']:.3f}x | "
        f"{row['params'] / 1e6:.3f} M | {row['ms']:.2f} | {row['share']:.3f}x | {again} | {row['met']} of {row['runs']} | {row['seconds'] / 60:.1f} |"
    )


def table(pick: Pick, network: str, budget: str, entries: Sequence[str], base: str = "edgeprune") -> list[str]:
    """The lines of these entries, the best first; differences are to `base`. Nothing where none was run."""
    ours = pick(network=network, budget=budget, entry=base)
    lead = float(np.mean([r["table"]["score"] - r["table"]["dense_score"] for r in ours])) if ours else 0.0
    lines = []
    for entry in entries:
        if found := pick(network=network, budget=budget, entry=entry):
            row, difference = several(found), paired(found, ours)
            # by the difference over the same seeds: means of other seeds are of other dense networks
            rank = float(np.mean(difference)) if difference else row["score"] - row["dense_score"] - lead
            lines.append((rank, cells(row, "-" if entry == base else told(difference))))
    return [HEAD, *(line for _, line in sorted(lines, reverse=True)), ""] if lines else []


def paired(ours: Sequence[Record], theirs: Sequence[Record]) -> list[float]:
    """The differences of mIoU in points, seed by seed, where both pruned the same dense network."""
    theirs_of = {(r["seed"], r["dense_weights"]): r["table"]["score"] for r in theirs}
    of = [((r["seed"], r["dense_weights"]), r["table"]["score"]) for r in ours]
    return [score - theirs_of[key] for key, score in of if key in theirs_of]


def in_common(these: Sequence[Record], others: Sequence[Record]) -> list[Record]:
    """Those of these rows whose dense network the others pruned, too."""
    known = {(r["seed"], r["dense_weights"]) for r in others}
    return [r for r in these if (r["seed"], r["dense_weights"]) in known]


def told(differences: Sequence[float]) -> str:
    """Paired differences in words: their mean, and each of them, since two or three have no spread to speak of."""
    if len(differences) < 2:
        return f"{differences[0]:+.2f}, one seed" if differences else "-"
    return f"{np.mean(differences):+.2f} ({', '.join(f'{d:+.2f}' for d in differences)})"
