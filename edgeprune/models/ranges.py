"""What a network's arguments may be, as annotations that `edgeprune.arguments` checks: far more than any network has, and little enough
to be built in a second where no memory is taken for weights."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Width = Annotated[int, Field(ge=1, le=65_536)]  # channels
Repeats = Annotated[int, Field(ge=0, le=100)]  # blocks of the same kind behind each other
Factor = Annotated[int, Field(ge=1, le=1000)]  # times a width; heads of attention; a stride; the layers in a name (101)
Widths = Annotated[tuple[Width, ...], Field(max_length=20)]
