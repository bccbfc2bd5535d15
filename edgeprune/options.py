"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipeArg = Annotated[str, typer.Argument(help="a shipped recipe's name, or the path of a .yaml file")]
TargetOpt = Annotated[str, typer.Option("--target", "-t", help="a shipped target's name, or the path of a .yaml file")]
SetOpt = Annotated[list[str], typer.Option("--set", "-s", help="change a key: --set budget.macs=0.3x; may stand often")]
RunsOpt = Annotated[Path, typer.Option(help="where the runs' folders lie")]
HostOpt = Annotated[
    str | None, typer.Option("--host", help="ssh address of the device (user@board); default: the target's own")
]
