"""Budgets in words: every amount with its unit, and the user's own figure beside what it comes to."""

from __future__ import annotations

from edgeprune.recipe.pruning import Budget

_COUNTED = {"macs": "MACs", "params": "parameters", "channels": "channels"}


def amount(kind: str, value: float) -> str:
    """A cost of this kind of budget: "12.340 ms", "33.333 ms (30.0 fps)", "0.379 GMACs", "0.149 M parameters", "512 channels"."""
    if kind not in _COUNTED:
        return f"{value:.3f} ms" + (f" ({1000 / value:.1f} fps)" if kind == "fps" else "")
    name = _COUNTED[kind]
    if kind == "macs" and value >= 1e8:
        return f"{value / 1e9:.3f} G{name}"
    if value >= 1e5:
        return f"{value / 1e6:.3f} {'M' if kind == 'macs' else 'M '}{name}"
    return f"{value:,.0f} {name}"


def asked(budget: Budget, dense: float) -> str:
    """What the recipe asks for, as it is written there, and what that comes to where the `dense` network costs so much."""
    value = getattr(budget, budget.kind)
    if isinstance(value, str):
        return f"{value.strip()} ({amount(budget.kind, budget.limit(dense))} of {amount(budget.kind, dense)})"
    if budget.kind == "fps":
        return f"{value:g} fps ({1000 / value:.3f} ms an image)"
    return f"{value:g} ms" if budget.is_latency else amount(budget.kind, float(value))
