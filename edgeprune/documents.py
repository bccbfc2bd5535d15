"""YAML documents checked against a schema; a fault is one line with the file, the line, the key and the nearest valid key.

All that users write reaches the program here: `read` (recipes, targets), `override` (`--set`), `mapping` (other options).
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from edgeprune.errors import RecipeError, UsageError
from edgeprune.plain_yaml import Key, YamlFault, parse

M = TypeVar("M", bound=BaseModel)


@dataclass
class Document:
    """A file's content, and where each key of it was written: "file:line", or "--set key=value"."""

    source: str
    content: dict[str, Any]
    places: dict[Key, str]
    settings: dict[Key, str] = field(default_factory=dict)

    def where(self, key: Key) -> str:
        """The place of a key, or of the nearest section around it; and the settings below it, of which its fault may be."""
        ends = range(len(key), 0, -1)
        place = next((self.places[key[:end]] for end in ends if key[:end] in self.places), self.source)
        below = [s for k, s in self.settings.items() if len(k) > len(key) and k[: len(key)] == key]
        more = f" and {len(below) - 3} more" if len(below) > 3 else ""
        return f"{place} with {', '.join(below[:3])}{more}" if below else place


def read(path: Path) -> Document:
    """A YAML mapping.

    Raises:
        RecipeError: no such file, not YAML, not a mapping, a key written twice, anything but plain values.
    """
    try:
        content, lines = parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not a text file; a recipe is YAML in UTF-8") from error
    except YamlFault as fault:
        raise RecipeError(f"{path}{f':{fault.line}' if fault.line else ''}: {fault.why}") from fault
    if not isinstance(content, dict):
        raise RecipeError(
            f"{path}: must be `key: value` lines, not {'empty' if content is None else type(content).__name__}"
        )
    return Document(str(path), content, {key: f"{path}:{line}" for key, line in lines.items()})


def override(document: Document, settings: Sequence[str]) -> None:
    """Apply `a.b=value` settings in place.

    Raises:
        RecipeError: a setting without `=` or with an empty key, one that reaches into a plain value or a list, a value that
            is not YAML.
    """
    for setting in settings:
        said = f"--set {shown(setting)}"
        name, equals, text = setting.partition("=")
        key = tuple(part.strip() for part in name.split("."))
        if not equals or not all(key):
            raise RecipeError(f"{said}: write key=value, for example --set finetune.lr=0.01")
        *path, last = key
        at: Any = document.content
        for depth, part in enumerate(path):
            if at.get(part) is None:
                at[part] = {}
            at = at[part]
            above = dotted(key[: depth + 1])
            if isinstance(at, list):
                raise RecipeError(f"{said}: {above} is a list; set it as a whole, such as --set {above}=[…]")
            if not isinstance(at, dict):
                raise RecipeError(f"{said}: {above} is a value, it has no keys below it")
        try:
            at[last], _ = parse(text)
        except YamlFault as fault:
            raise RecipeError(f"{said}: {fault.why}") from fault
        for known in (document.places, document.settings):
            for below in [k for k in known if k[: len(key)] == key]:
                del known[below]
        document.places[key] = document.settings[key] = said


def mapping(text: str, option: str, example: str) -> dict[str, Any]:
    """The mapping that an option of the command line holds.

    Raises:
        UsageError: it holds anything else.
    """
    try:
        content, _ = parse(text)
    except YamlFault as fault:
        raise UsageError(f"{option}: {fault.why}; write a mapping such as {example!r}, not {shown(text)}") from fault
    if not isinstance(content, dict):
        raise UsageError(f"{option}: write a mapping such as {example!r}, not {shown(text)}")
    return content


def validated(schema: type[M], document: Document, options: Sequence[str] = ()) -> M:
    """The schema's object.

    Args:
        options: of the command line that users take for keys.

    Raises:
        RecipeError: the first fault in one line, with the number of further ones.
    """
    try:
        return schema.model_validate(document.content)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        first = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise RecipeError(f"{document.where(first['loc'])}: {_said(schema, first, options)}{more}") from error


def first_fault(error: ValidationError) -> str:
    """Of JSON that the program reads back: the key, what is wrong with it, and the number of further faults."""
    faults = error.errors(include_url=False)
    key = dotted(
        tuple(k for k in faults[0]["loc"] if isinstance(k, int) or "[" not in k)
    )  # without alternatives' names
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return f"{key + ': ' if key else ''}{told(faults[0])}{more}"


def _said(schema: type[BaseModel], fault: Any, options: Sequence[str]) -> str:
    key = fault["loc"]
    if fault["type"] == "extra_forbidden":
        return f"{dotted(key)}: unknown key; {_meant(schema, key, fault['input'], options)}"
    return f"{dotted(key)}: {told(fault)}" if key else told(fault)


def told(fault: Any) -> str:
    """What pydantic found wrong with a value, as the end of a line."""
    kind, value = fault["type"], written(fault["input"])
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return fault["msg"].removeprefix("Value error, ")
    if kind.startswith("model_"):
        return f"must be keys with their values, not {value}"
    quotes = kind == "string_type" and isinstance(fault["input"], (bool, int, float))
    more = "; YAML reads yes, no, on, off and numbers as something else than text: write it in quotes" if quotes else ""
    return f"{fault['msg'][0].lower()}{fault['msg'][1:]}, not {value}{more}"


def _meant(schema: type[BaseModel], key: Key, value: Any, options: Sequence[str]) -> str:
    """What would have been right in place of an unknown key: an option, a key of this section, or one of another."""
    word, here = str(key[-1]), _keys(schema, key[:-1])
    option = word.replace("-", "_")
    if len(key) == 1 and option in options:
        return f"did you mean the option --{option.replace('_', '-')} {written(value).strip(chr(39))}?"
    paths = sorted(_paths(schema), key=len)
    for names, cutoff in ((here, 0.8), ([p[-1] for p in paths], 1.0), (here, 0.5), ([p[-1] for p in paths], 0.8)):
        near = difflib.get_close_matches(word, names, n=1, cutoff=cutoff)
        if near and names is here:
            return f"did you mean {near[0]}?"
        if near:
            return f"did you mean {' or '.join([dotted(p) for p in paths if p[-1] == near[0]][:3])}?"
    return hint(word, here)


def _paths(schema: type[BaseModel], above: Key = ()) -> Iterator[Key]:
    """Every key of a schema and of the sections in it; not of sections that stand in lists."""
    for name, info in schema.model_fields.items():
        yield (*above, name)
        inner = _section(info.annotation)
        if inner is not None and "list" not in str(info.annotation):
            yield from _paths(inner, (*above, name))


def _keys(schema: Any, key: Key) -> list[str]:
    """The valid keys of the section at `key`."""
    for part in key:
        if isinstance(part, int):  # a place in a list of sections
            continue
        info = schema.model_fields.get(part) if isinstance(schema, type) else None
        schema = _section(info.annotation) if info else None
        if schema is None:
            return []
    return list(schema.model_fields)


def _section(annotation: Any) -> Any:
    """The schema inside `Section | None`."""
    for option in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
    return None


def hint(word: str, valid: list[str]) -> str:
    """What would have been right: the nearest valid word, or all of them."""
    near = difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(valid) or 'none'}"


def dotted(key: Key) -> str:
    """("a", "b", 0) as a.b[0]."""
    return "".join(f"[{k}]" if isinstance(k, int) else f".{shown(str(k))}" for k in key).lstrip(".")


def shown(text: str, most: int = 80) -> str:
    """What a user wrote, as part of one line."""
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= most else f"{text[: most - 1]}…"


def written(value: Any) -> str:
    """A value as a user would write it, as part of one line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return shown(repr(value), 60)


def find(name: str, folder: Path, kind: str) -> Path:
    """The file that `name` means: a path to a YAML file, or a shipped name.

    Raises:
        RecipeError: there is no such file; says the nearest name.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        if os.path.isfile(name):
            return Path(name)
        raise RecipeError(f"{shown(name)}: no such {kind} file")
    path = folder / f"{name}.yaml"
    if os.path.isfile(path):
        return path
    names = sorted(p.stem for p in folder.glob("*.yaml"))
    raise RecipeError(f"{kind} {shown(name)}: unknown; {hint(name, names)} (or give the path of a .yaml file)")
