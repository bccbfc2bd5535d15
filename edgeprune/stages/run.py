"""What every stage gets."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from edgeprune.recipe import Recipe
from edgeprune.target import Target


@dataclass
class Run:
    """The recipe, the target, the run's folder and the facts of the stages before."""

    recipe: Recipe
    target: Target
    folder: Path
    console: Console
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    key: str = ""  # hash of all that the present stage hangs on
    timings: list[dict[str, Any]] = field(default_factory=list)
    kept: dict[str, Any] = field(default_factory=dict)  # open data sets and engines; nothing that a later process needs
