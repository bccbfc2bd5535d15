"""What a report has to say first, whatever its gates say: that the network which ships is far from the dense one it was made of."""

from __future__ import annotations

from typing import Any

LARGE, SHARE = 5.0, 0.2  # a loss that is one: in points, or as a share of the dense network's score
_LOST, _SEEN = 0.5, 10.0  # a class is lost with half of its figure, if that was so many points at least
_NAMED = 5  # classes


def headline(report: dict[str, Any]) -> list[str]:
    """Lines for the first place of a page and the last of a terminal; none where nothing is alarming.

    Compared are the first and the last row of the attribution, of the same images and by the same protocol: the dense network in
    PyTorch, and the engine (or, where none could be run, its graph).
    """
    metric, rows = report["metric"], report["attribution"]
    key, name = metric["key"], metric["name"]
    dense, ships = 100 * rows[0][key], 100 * rows[-1][key]
    chance, loss = 100 * report["dense"]["chance"], dense - ships
    if guessing := dense - chance <= max(0.5, min(0.2 * chance, 0.05 * (100 - chance))):
        lines = [
            f"the dense network is no better than guessing: {name} {dense:.2f}, and guessing reaches {chance:.2f}; what pruning "
            "and the engine make of it says nothing"
        ]
    else:
        lines = []
    if loss > LARGE or (not guessing and loss > SHARE * dense):
        lines.append(
            f"{name} fell from {dense:.2f} to {ships:.2f} against the dense network, by {loss:.2f} points{_blame(rows, key, loss)}"
        )
    if not guessing and (gone := _gone(rows[0][metric["per_class"]], rows[-1][metric["per_class"]])):
        more = f" and {len(gone) - _NAMED} more" if len(gone) > _NAMED else ""
        lines.append(f"lost classes ({metric['of_class']}): {', '.join(gone[:_NAMED])}{more}")
    return lines


def _blame(rows: list[dict[str, Any]], key: str, loss: float) -> str:
    """Whether it was pruning or what came behind it."""
    pruned = 100 * (rows[0][key] - next(row[key] for row in rows if row["stage"] == "pruned"))
    if pruned > 0.5 * loss:
        return f" ({pruned:.2f} of them by pruning and fine-tuning)"
    return f" (pruning and fine-tuning: {pruned:.2f}; the rest behind them, in export, precision or engine)"


def _gone(dense: dict[str, float | None], ships: dict[str, float | None]) -> list[str]:
    """Classes that have lost half of what the dense network had, the greatest loss first."""
    pairs = [(n, 100 * a, 100 * (ships.get(n) or 0.0)) for n, a in dense.items() if a is not None]
    found = [(n, a, b) for n, a, b in pairs if a >= _SEEN and b < (1 - _LOST) * a]
    return [f"{n} {a:.1f} to {b:.1f}" for n, a, b in sorted(found, key=lambda row: row[2] - row[1])]
