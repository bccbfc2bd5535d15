"""Write docs/recipe-keys.md from the recipe's schema; `--check` only says whether it is up to date."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from edgeprune.recipe import Recipe

_SLIP = 1e9  # limits from here on only catch slips
PAGE = Path(__file__).parent / "recipe-keys.md"


def section(annotation: Any) -> type[BaseModel] | None:
    """The schema inside `Section | None`."""
    options = (annotation, *get_args(annotation))
    return next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)


def kind(schema: dict[str, Any]) -> str:
    """A key's type and limits, for people."""
    if "anyOf" in schema:
        return " or ".join(kind(s) for s in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{v}`" for v in schema["enum"])
    if "$ref" in schema or "allOf" in schema:
        return "section"
    name = {"array": "list", "object": "mapping", "string": "text"}.get(
        schema.get("type", ""), schema.get("type", "any")
    )
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[key]:g}" for key, sign in signs.items() if schema.get(key, _SLIP) < _SLIP]
    return name + (f" ({', '.join(limits)})" if limits else "")


def as_written(default: Any) -> str:
    """A default as a recipe has it."""
    return default if isinstance(default, str) else json.dumps(default)


def table(model: type[BaseModel], prefix: str = "") -> list[str]:
    """The rows of a section and those below it."""
    lines, below = [], []
    properties = model.model_json_schema()["properties"]
    for name, field in model.model_fields.items():
        inner = section(field.annotation)
        if inner is not None:
            doc = (inner.__doc__ or "").strip().splitlines()[0]
            optional = " May be `null`." if field.default is None else ""
            below += [
                "",
                f"## {prefix}{name}",
                "",
                f"{field.description or doc}{'' if field.description is None else '.'}{optional}",
            ]
            below += [
                "",
                "| key | type | default | what it is |",
                "|---|---|---|---|",
                *table(inner, f"{prefix}{name}."),
            ]
            continue
        default = "**needed**" if field.is_required() else f"`{as_written(field.default)}`"
        lines.append(f"| `{prefix}{name}` | {kind(properties[name])} | {default} | {field.description or ''} |")
    return lines + below


def page() -> str:
    """The whole page."""
    head = [
        "# Recipe keys", "", "Written by `make docs` from the schema in `edgeprune/recipe/`; do not edit.", "",
        "| key | type | default | what it is |", "|---|---|---|---|",
    ]  # fmt: skip
    return "\n".join(head + table(Recipe)) + "\n"


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(
            0
            if PAGE.exists() and PAGE.read_text(encoding="utf-8") == page()
            else "docs/recipe-keys.md is old: make docs"
        )
    PAGE.write_text(page(), encoding="utf-8")
