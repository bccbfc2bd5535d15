"""YAML read into plain values: null, true/false, numbers, text, lists and mappings. Everything else is refused with its line.

Stricter than PyYAML's SafeLoader, which builds dates, sets and bytes, lets ValueError, KeyError and RecursionError out of broken
scalars, reads 010 as 8 and 1:30 as 90, and takes 1e-4 for text.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator
from typing import Any

import yaml

Key = tuple[Any, ...]

_MOST_BYTES, _MOST_VALUES, _DEEPEST = 1 << 20, 10_000, 50
_LONGEST_NUMBER = 300  # digits; a float has at most 309 before the point
_INT = re.compile(r"[-+]?(0x[0-9a-fA-F]+|0o[0-7]+|[0-9]+(_[0-9]+)*)")
_FLOAT = re.compile(r"[-+]?(([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|\.(inf|Inf|INF))|\.(nan|NaN|NAN)")


class YamlFault(Exception):
    """What is wrong with a text, and in which line (None: as a whole)."""

    def __init__(self, why: str, line: int | None = None):
        super().__init__(why)
        self.why, self.line = why, line


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}
    yaml_constructors: dict[str | None, Any] = {}
    depth = values = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth, self.values = self.depth + 1, self.values + 1
        if self.depth > _DEEPEST or self.values > _MOST_VALUES:
            what = f"{_DEEPEST} levels" if self.depth > _DEEPEST else f"{_MOST_VALUES:,} values"
            raise YamlFault(f"more than {what}, which no recipe has", self.peek_event().start_mark.line + 1)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _scalar(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return node.value
    raise YamlFault(f"the tag {node.tag[:60]!r} stands before a list or mapping", node.start_mark.line + 1)


def _int(text: str) -> int:
    digits = text.lstrip("+-")
    base = {"0x": 16, "0o": 8}.get(digits[:2], 10)
    return (-1 if text[0] == "-" else 1) * int(digits if base == 10 else digits[2:], base)


def _number(loader: _Loader, node: yaml.Node) -> int | float:
    text, kind, line = _scalar(node), node.tag.rpartition(":")[2], node.start_mark.line + 1
    if len(text) > _LONGEST_NUMBER:
        raise YamlFault(f"a number of {len(text):,} characters", line)
    if _INT.fullmatch(text):
        value = _int(text)
        if kind == "float" and abs(value) > sys.float_info.max:
            raise YamlFault(f"a number of {len(text)} digits, larger than any float", line)
        return value if kind == "int" else float(value)
    if kind == "int" or not _FLOAT.fullmatch(text):
        raise YamlFault(f"{text[:40]!r} is not a number", line)
    value = float(text.replace(".i", "i").replace(".I", "i").replace(".n", "n").replace(".N", "n"))
    if not math.isfinite(value):
        raise YamlFault(f"{text}: numbers must be finite", line)
    return value


def _bool(loader: _Loader, node: yaml.Node) -> bool:
    value = loader.bool_values.get(_scalar(node).lower())
    if value is None:
        raise YamlFault(f"{node.value[:40]!r} is not true or false", node.start_mark.line + 1)
    return value


def _null(loader: _Loader, node: yaml.Node) -> None:
    if _scalar(node).lower() not in ("", "~", "null"):
        raise YamlFault(f"{node.value[:40]!r} is not null", node.start_mark.line + 1)


def _text(loader: _Loader, node: yaml.Node) -> str:
    value = _scalar(node)
    if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
        raise YamlFault("text must be UTF-8 without NUL bytes", node.start_mark.line + 1)
    return value


def _unknown(loader: _Loader, node: yaml.Node) -> Any:
    raise YamlFault(f"not YAML of plain values: the tag {node.tag[:60]!r}", node.start_mark.line + 1)


for tag, pattern, first in (
    ("bool", re.compile(r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF"), "yYnNtTfFoO"),
    ("int", _INT, "-+0123456789"),
    ("float", _FLOAT, "-+0123456789."),
    ("null", re.compile(r"~|null|Null|NULL|"), ["~", "n", "N", ""]),
    ("merge", re.compile("<<"), "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"(?:{pattern.pattern})$"), list(first))
for tag, construct in (
    ("null", _null), ("bool", _bool), ("int", _number), ("float", _number), ("str", _text),
    ("seq", yaml.SafeLoader.construct_yaml_seq), ("map", yaml.SafeLoader.construct_yaml_map),
):  # fmt: skip
    _Loader.add_constructor(f"tag:yaml.org,2002:{tag}", construct)
_Loader.yaml_constructors[None] = _unknown


def parse(text: str) -> tuple[Any, dict[Key, int]]:
    """The value that a text holds, and the line of each key in it.

    Raises:
        YamlFault: not YAML; anything but plain values; a key written twice; larger or deeper than any recipe.
    """
    if len(text) > _MOST_BYTES:
        raise YamlFault(f"{len(text):,} characters; a recipe has at most {_MOST_BYTES:,}")
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, {}
        lines = dict(_lines(node, (), [0]))
        return _unshared(loader.construct_document(node)), lines
    except (
        ValueError,
        OverflowError,
        RecursionError,
    ) as error:  # of escapes, numbers and versions beyond what Python holds
        line = loader.line + 1 if loader else None
        raise YamlFault(f"not YAML: {' '.join(str(error).split())[:200]}", line) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        code = error.character if isinstance(error.character, int) else ord(error.character[:1] or "\0")
        raise YamlFault(f"not YAML: the character U+{code:04X} must not be in it", line) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        why = getattr(error, "problem", None) or str(error)
        raise YamlFault(f"not YAML: {' '.join(why.split())[:200]}", mark.line + 1 if mark else None) from error


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = {
        first: [
            *_Loader.yaml_implicit_resolvers.get(first, []),
            *yaml.SafeDumper.yaml_implicit_resolvers.get(first, []),
        ]
        for first in {**_Loader.yaml_implicit_resolvers, **yaml.SafeDumper.yaml_implicit_resolvers}
    }  # quotes what either reader would take for something else than text


def write(value: Any) -> str:
    """YAML of plain values that `parse` reads back as they are."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _lines(node: yaml.Node, key: Key, seen: list[int]) -> Iterator[tuple[Key, int]]:
    """(key, line) of all that is below a node; an alias is looked into wherever it stands."""
    seen[0] += 1
    if seen[0] > _MOST_VALUES or len(key) > _DEEPEST:
        raise YamlFault("more than any recipe holds; does an alias refer to itself?", node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for name, value in node.value:
            line = name.start_mark.line + 1
            if not isinstance(name, yaml.ScalarNode) or name.tag.rpartition(":")[2] not in ("str", "merge"):
                raise YamlFault(f"the key {_written(name)} is not text; quote it", line)
            if name.value in first:
                below = ".".join(map(str, (*key, name.value)))
                raise YamlFault(f"{below} stands twice (also in line {first[name.value]})", line)
            first[name.value] = line
            yield (*key, name.value), line
            yield from _lines(value, (*key, name.value), seen)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            yield (*key, i), value.start_mark.line + 1
            yield from _lines(value, (*key, i), seen)


def _unshared(value: Any) -> Any:
    """A copy in which what an alias stands for is its own, so that a change in one place is none in the other."""
    if isinstance(value, dict):
        return {k: _unshared(v) for k, v in value.items()}
    return [_unshared(v) for v in value] if isinstance(value, list) else value


def _written(node: yaml.Node) -> str:
    return repr(node.value[:40]) if isinstance(node, yaml.ScalarNode) else "that holds others"
