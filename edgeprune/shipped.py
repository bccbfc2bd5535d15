"""Where the shipped data lies: beside the package in a clone, inside it in a wheel."""

from __future__ import annotations

from pathlib import Path


def shipped(name: str) -> Path:
    """The folder `name` ("recipes", "deploy/targets", "deploy/on_device") of this installation."""
    package = Path(__file__).parent
    inside = package / "_shipped" / name
    return inside if inside.is_dir() else package.parent / name
