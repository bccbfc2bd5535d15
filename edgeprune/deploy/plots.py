"""The report's plots, as inline SVG."""

from __future__ import annotations

import io
from collections import Counter
from typing import Any

import numpy as np

DENSE, PRUNED, ENGINE = "#9aa5b1", "#2f6fb0", "#e08a1e"


def _svg(figure: Any) -> str:
    from matplotlib import pyplot as plt

    held = io.StringIO()
    figure.savefig(held, format="svg", bbox_inches="tight")
    plt.close(figure)
    text = held.getvalue()
    return text[text.index("<svg") :]


def _axes(width: float, height: float) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none"})
    return plt.subplots(figsize=(width, height))


def classes(report: dict[str, Any]) -> str:
    """Bars of a figure per class (IoU, accuracy, AP): dense, pruned, engine."""
    metric = report["metric"]
    names, last = report["data"]["classes"], "engine" if report["engine"]["measured"] else "graph in ONNX Runtime"
    figure, axes = _axes(max(6, 0.75 * len(names)), 2.8)
    for k, (role, color) in enumerate((("dense", DENSE), ("pruned", PRUNED), ("engine", ENGINE))):
        values = [100 * (report[role][metric["per_class"]][n] or 0) for n in names]
        axes.bar(
            np.arange(len(names)) + 0.27 * (k - 1), values, 0.25, label=role if role != "engine" else last, color=color
        )
    axes.set_xticks(range(len(names)), names, rotation=25, ha="right")
    axes.set_ylabel(f"{metric['of_class']}, %")
    axes.set_ylim(0, 100)
    axes.legend(frameon=False, ncol=3, loc="upper right")
    return _svg(figure)


def widths(report: dict[str, Any]) -> str:
    """Channels of each group before and after."""
    table = report["widths"]["widths"]
    figure, axes = _axes(8, max(2.0, 0.22 * len(table)))
    places = np.arange(len(table))[::-1]
    axes.barh(places, [w["before"] for w in table], 0.75, color=DENSE, label="dense")
    axes.barh(places, [w["after"] for w in table], 0.75, color=PRUNED, label="pruned")
    for place, w in zip(places, table, strict=True):
        axes.text(w["before"], place, f" {w['after']} of {w['before']}", va="center", fontsize=7)
    axes.set_yticks(places, [w["group"] for w in table], fontsize=7)
    axes.set_xlabel("channels")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.0 + 1.2 / max(6, len(table))), ncol=2)
    return _svg(figure)


def latency(report: dict[str, Any]) -> str:
    """Histograms of the interleaved times."""
    figure, axes = _axes(6, 2.4)
    series = [(np.array(report["engine"][k]["times_ms"]), n, c) for k, n, c in (
        ("dense_latency", "dense engine", DENSE), ("latency", "pruned engine", PRUNED))]  # fmt: skip
    top = max(float(np.percentile(times, 99)) for times, _, _ in series)
    bins = np.linspace(min(float(times.min()) for times, _, _ in series), top, 50).tolist()
    for times, name, color in series:
        axes.hist(
            np.clip(times, None, top), bins, color=color, alpha=0.85, label=f"{name}: p50 {np.median(times):.2f} ms"
        )
    axes.set_xlabel("milliseconds an image (the last bin holds everything above p99)")
    axes.set_ylabel("runs")
    axes.legend(frameon=False)
    return _svg(figure)


_WHY = {
    "kept": PRUNED,
    "not": DENSE,
    "launch": "#8e5bb5",
    "unaligned": "#c2352b",
    "memory": ENGINE,
    "narrow": "#1f9e89",
    "removed": "#3a3f45",
}


def layers(report: dict[str, Any]) -> str:
    """Milliseconds saved against those that MACs promised, a point a layer; below the line the promise was lost."""
    rows = report["layers"]["rows"]
    figure, axes = _axes(6, 3.2)
    top = max(max(r["promised"] for r in rows), max(r["saved"] for r in rows), 1e-6) * 1.08
    axes.plot([0, top], [0, top], color="#c6ced6", linewidth=1)
    axes.text(top, top, " as MACs promise", fontsize=7, color="#5b6875", ha="right", va="bottom")
    for kind, color in _WHY.items():
        chosen = [r for r in rows if r["why"].startswith(kind)]
        if chosen:
            axes.scatter(
                [r["promised"] for r in chosen], [r["saved"] for r in chosen], s=22, color=color, alpha=0.85,
                label=chosen[0]["why"].split(":")[0],
            )  # fmt: skip
    axes.axhline(0, color="#c6ced6", linewidth=0.7)
    axes.set_xlabel("milliseconds that the saved MACs promise")
    axes.set_ylabel("milliseconds saved")
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    return _svg(figure)


def stages(report: dict[str, Any]) -> str:
    """How long each stage took."""
    rows = report["stages"]
    figure, axes = _axes(6, max(1.4, 0.24 * len(rows)))
    places = np.arange(len(rows))[::-1]
    axes.barh(places, [r["seconds"] for r in rows], 0.7, color=[DENSE if r["skipped"] else PRUNED for r in rows])
    for place, r in zip(places, rows, strict=True):
        axes.text(
            r["seconds"],
            place,
            f" {r['seconds']:.1f} s{' (earlier run)' if r['skipped'] else ''}",
            va="center",
            fontsize=8,
        )
    axes.set_yticks(places, [r["name"] for r in rows])
    axes.set_xlabel("seconds")
    return _svg(figure)


def staircase(curve: list[tuple[int, int, float]]) -> str:
    """Milliseconds against outputs (at one number of inputs) and against inputs: the lines with the most points."""
    figure, axes = _axes(3.8, 2.2)
    for line, style in (([(i, o, ms) for i, o, ms in curve], "-"), ([(o, i, ms) for i, o, ms in curve], "--")):
        counts = Counter(held for held, _, _ in line)
        held = max(counts, key=lambda c: (counts[c], c))
        points = sorted((x, ms) for at, x, ms in line if at == held)
        if len(points) > 1:
            axes.plot(*zip(*points, strict=True), style, color=PRUNED, marker=".", markersize=3, linewidth=1)
    axes.set_xlabel("channels")
    axes.set_ylabel("ms")
    axes.set_ylim(bottom=0)
    return _svg(figure)


_MARKS = "osD^vPX*"


def cost_of(rows: list[dict[str, Any]]) -> str:
    """What a front's rows are compared by: the measured share of dense, or MACs where nothing was measured."""
    return "share" if any(r["share"] is not None for r in rows) else "macs_share"


def front(rows: list[dict[str, Any]]) -> str:
    """The metric against the share of the dense engine's latency (of MACs where nothing was measured), a mark a method."""
    figure, axes = _axes(7, 3.8)
    cost = cost_of(rows)
    rows = [r for r in rows if r[cost] is not None]
    at = [(r[cost], 100 * r["score"]) for r in rows]
    methods = sorted({r["method"] for r in rows})
    for number, method in enumerate(methods):
        mine = [p for p, r in zip(at, rows, strict=True) if r["method"] == method]
        axes.scatter(*zip(*mine, strict=True), marker=_MARKS[number % len(_MARKS)], s=36, label=method, zorder=3)
    best = sorted(p for p, r in zip(at, rows, strict=True) if r["front"])
    axes.plot(*zip(*best, strict=True), color=DENSE, linewidth=1)
    axes.axhline(100 * rows[0]["dense_score"], color=DENSE, linestyle=":", linewidth=1, label="dense")
    axes.set_xlabel("latency, share of the dense engine's" if cost == "share" else "MACs, share of dense")
    axes.set_ylabel(f"{rows[0]['metric']}, %")
    axes.legend(frameon=False)
    return _svg(figure)
