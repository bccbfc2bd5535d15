"""The command about data sets: data check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from edgeprune import progress
from edgeprune.documents import hint, mapping
from edgeprune.errors import UsageError

app = typer.Typer(help="Look at data sets.", no_args_is_help=True, rich_markup_mode=None)


@app.command("check")
def check_data(
    name: Annotated[str, typer.Argument(help="the kind of data set, as data.name in a recipe")],
    root: Annotated[str | None, typer.Argument(help="its folder; sets that are drawn need none")] = None,
    split: Annotated[str, typer.Option(help="comma-separated; also a list of the set, such as trainaug")] = "train,val",
    limit: Annotated[int | None, typer.Option(min=1, help="read only so many images a split, evenly spread")] = None,
    args: Annotated[str, typer.Option(help="data.args as in a recipe: '{classes: [road, car]}'")] = "{}",
    out: Annotated[Path, typer.Option(help="the contact sheet")] = Path("contact.png"),
) -> None:
    """Read a data set: images and labels in pairs, their sizes and ids, pixels per class, and a contact sheet to look at.

    Ends with status 1 where anything is wrong, and names the files.

    edgeprune data check voc2012 /data/VOCdevkit --split train,val,trainaug
    edgeprune data check folder /data/mine --args '{classes: [road, person, car]}' --limit 200
    """
    from edgeprune.arguments import check_arguments
    from edgeprune.data import DATASETS, GIVEN
    from edgeprune.data import check as checking
    from edgeprune.data.contact import write_sheet

    if name not in DATASETS:
        raise UsageError(f"data check: {name!r} is no data set; {hint(name, list(DATASETS))}")
    taken = mapping(args, "data check --args", "{classes: [road, car]}")
    check_arguments(DATASETS[name], taken, where="--args", whose=name, given=GIVEN)
    console, errors = progress.console(stderr=False), progress.console()
    found = [checking.check(name, root, s.strip(), limit, taken) for s in split.split(",")]
    for one in (f for f in found if f.data is not None):  # of one that could not be opened there is nothing to sum up
        console.print(checking.summary(one), markup=False, highlight=False, soft_wrap=True)
    if any(one.read for one in found):
        console.print(checking.table(found))
        write_sheet(out, found)
        errors.print(f"contact sheet: {escape(str(out))}", soft_wrap=True)
    checking.refuse(found, errors)
