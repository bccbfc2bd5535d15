"""What the sections of a recipe share: unknown keys are refused, a value has the type that its key wants, numbers have ranges."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

MOST = 10**9  # of anything that is counted; more is a slip, and overflows what counts it

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=1e15)]
NotNegative = Annotated[float, Field(ge=0, le=1e15)]
Count = Annotated[int, Field(gt=0, le=MOST)]
Whole = Annotated[int, Field(ge=0, le=MOST)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what NumPy takes
Side = Annotated[int, Field(gt=0, le=65_535)]  # pixels; what JPEG holds
Size = Annotated[tuple[Side, Side], Field(strict=False)]  # YAML's lists become tuples
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]  # a part of a folder's name

_SHARE = re.compile(r"\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*x\s*")


class Section(BaseModel):
    """A section of a recipe. Strict: true is no number, 1 is not true, "3" is text; whole numbers are taken for others."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def share_of(text: str) -> float | None:
    """0.4 of "0.4x"; None of what is no share."""
    found = _SHARE.fullmatch(text)
    return float(found[1]) if found else None


def meant_share(value: Any) -> str:
    """; did you mean 0.4x?, of 0.4, "0.4", "40%" or "0.4X"; else nothing."""
    text = str(value).strip().lower()
    number = share_of(f"{text.rstrip('x%').strip()}x")
    number = number / 100 if number is not None and text.endswith("%") else number
    return f"; did you mean {number:g}x?" if number is not None and 0 < number <= 1 else ""
