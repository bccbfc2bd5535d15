"""YAML documents checked against a schema; a fault is one line with the file, the line, the key and the nearest valid key."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from edgeprune.errors import RecipeError

Key = tuple[Any, ...]
M = TypeVar("M", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-4 is a number (YAML 1.1 wants 1.0e-4 and else gives a string)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)$|^[-+]?(\d+\.\d*|\.\d+)$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)

_MOST_LINES, _DEEPEST = 10_000, 50


def parse(text: str) -> Any:
    """A YAML value, as on the command line."""
    return yaml.load(text, _Loader)


def read(path: Path) -> tuple[dict[str, Any], dict[Key, int]]:
    """A YAML mapping and the line of each key.

    Raises:
        RecipeError: no such file, not YAML, not a mapping, a key written twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, _Loader)
        content = parse(text)
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not a text file; a recipe is YAML in UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise RecipeError(f"{path}{line}: not YAML: {getattr(error, 'problem', None) or error}") from error
    if not isinstance(content, dict):
        raise RecipeError(
            f"{path}: must be `key: value` lines, not {'empty' if content is None else type(content).__name__}"
        )
    lines: dict[Key, int] = {}
    _lines(node, (), lines, path)
    return content, lines


def _lines(node: Any, key: Key, lines: dict[Key, int], path: Path) -> None:
    if (
        len(lines) > _MOST_LINES or len(key) > _DEEPEST
    ):  # aliases can refer to themselves, or stand for any number of lines
        raise RecipeError(
            f"{path}:{node.start_mark.line + 1}: more than any recipe holds; does an alias refer to itself?"
        )
    if isinstance(node, yaml.MappingNode):
        for k, value in node.value:
            below = (*key, k.value)
            if below in lines:
                raise RecipeError(
                    f"{path}:{k.start_mark.line + 1}: {dotted(below)} stands twice (also in line {lines[below]})"
                )
            lines[below] = k.start_mark.line + 1
            _lines(value, below, lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            lines[(*key, i)] = value.start_mark.line + 1
            _lines(value, (*key, i), lines, path)


def override(content: dict[str, Any], settings: list[str]) -> dict[Key, str]:
    """Apply `a.b=value` settings in place; gives the keys that were set, for messages.

    Raises:
        RecipeError: a setting without `=`, or one that reaches into a plain value.
    """
    found: dict[Key, str] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name.strip():
            raise RecipeError(f"--set {setting}: write key=value, for example --set finetune.lr=0.01")
        *path, last = key = tuple(name.strip().split("."))
        at: Any = content
        for depth, part in enumerate(path):
            if at.get(part) is None:
                at[part] = {}
            at = at[part]
            if not isinstance(at, dict):
                raise RecipeError(f"--set {setting}: {dotted(key[: depth + 1])} is a value, it has no keys below it")
        try:
            at[last] = parse(text)
        except yaml.YAMLError as error:
            raise RecipeError(f"--set {setting}: {text!r} is not a YAML value") from error
        found[key] = setting
    return found


def validated(schema: type[M], content: dict[str, Any], where: Any) -> M:
    """The schema's object; `where(key)` says in which file and line (or setting) a key stands.

    Raises:
        RecipeError: the first fault in one line, with the number of further ones.
    """
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        first = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise RecipeError(f"{where(first['loc'])}: {_said(schema, first)}{more}") from error


def first_fault(error: ValidationError) -> str:
    """Of JSON that the program reads back: the key, what it must be, what it is, and the number of further faults."""
    faults = error.errors(include_url=False)
    first = faults[0]
    message = first["msg"].removeprefix("Value error, ")
    got = "" if first["type"] in ("missing", "value_error") else f", not {_short(first['input'])}"
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    key = dotted(tuple(k for k in first["loc"] if isinstance(k, int) or "[" not in k))  # without alternatives' names
    return f"{key + ': ' if key else ''}{message[:1].lower()}{message[1:]}{got}{more}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _said(schema: type[BaseModel], fault: Any) -> str:
    key, kind = fault["loc"], fault["type"]
    if kind == "extra_forbidden":
        valid = _keys(schema, key[:-1])
        return f"{dotted(key)}: unknown key; {hint(str(key[-1]), valid)}"
    if kind == "missing":
        return f"{dotted(key)}: is missing"
    message = fault["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    got = "" if kind == "value_error" else f", not {fault['input']!r}"
    return f"{dotted(key)}: {message}{got}" if key else message


def _keys(schema: Any, key: Key) -> list[str]:
    """The valid keys of the section at `key`."""
    for part in key:
        if isinstance(part, int):  # a place in a list of sections
            continue
        field = schema.model_fields.get(part) if isinstance(schema, type) else None
        schema = _section(field.annotation) if field else None
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
    return "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in key).lstrip(".")


def find(name: str, folder: Path, kind: str) -> Path:
    """The file that `name` means: a path to a YAML file, or a shipped name.

    Raises:
        RecipeError: there is no such file; says the nearest name.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        if Path(name).is_file():
            return Path(name)
        raise RecipeError(f"{name}: no such {kind} file")
    path = folder / f"{name}.yaml"
    if path.is_file():
        return path
    names = sorted(p.stem for p in folder.glob("*.yaml"))
    raise RecipeError(f"{kind} {name}: unknown; {hint(name, names)} (or give the path of a .yaml file)")
