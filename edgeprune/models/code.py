"""The files that a user's own network is made of, so that a change in one is seen; nothing is run to find them."""

from __future__ import annotations

import ast
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

_INSTALLED = {"site-packages", "dist-packages"}


def files(module: str) -> list[Path]:
    """Those of the module's package, and what they import of other places than Python's own and installed packages'."""
    spec = find_spec(module.partition(".")[0])
    if spec is None:
        return []
    found = {p.resolve() for place in spec.submodule_search_locations or () for p in Path(place).rglob("*.py")}
    if spec.origin and Path(spec.origin).is_file():
        found.add(Path(spec.origin).resolve())
    places, asked = _own_places(), set[tuple[Path, str]]()
    todo = [p for p in found if not _INSTALLED & set(p.parts)]
    while todo:
        named = set(_imported(todo.pop(), places)) - asked
        new = {p for root, module in named for p in _of(root, module)} - found
        asked |= named
        found |= new
        todo += new
    return sorted(found)


def _own_places() -> list[Path]:
    """Where a user's modules may lie: the working directory, PYTHONPATH, packages installed for editing."""
    own = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")}
    places = [Path.cwd(), *(Path(p).resolve() for p in sys.path if p and Path(p).is_dir())]
    return [p for p in dict.fromkeys(places) if not _INSTALLED & set(p.parts) and not own & {p, *p.parents}]


def _imported(path: Path, places: list[Path]) -> Iterator[tuple[Path, str]]:
    """(folder, dotted name below it) of what a file imports."""
    tree = ast.Module([], [])
    with suppress(SyntaxError, ValueError):  # whoever imports it is told
        tree = ast.parse(path.read_bytes())
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                for place in places:
                    yield place, name.name
        elif isinstance(node, ast.ImportFrom):
            for root in [path.parents[node.level - 1]] if node.level else places:
                for name in node.names:
                    yield root, ".".join(filter(None, (node.module, name.name)))


def _statements(node: ast.AST) -> Iterator[ast.stmt]:
    """All of a tree. Expressions, which are most of its nodes, hold no import."""
    for part in ("body", "orelse", "finalbody", "handlers", "cases"):
        held = getattr(node, part, ())
        for inner in held if isinstance(held, list) else ():  # a lambda's and a condition's are expressions
            if isinstance(inner, ast.stmt):
                yield inner
            yield from _statements(inner)


def _of(root: Path, module: str) -> Iterator[Path]:
    """The files of a dotted name below a folder: of its packages, and of itself."""
    for name in module.split("."):
        root = root / name
        found = [path for path in (root / "__init__.py", root.with_suffix(".py")) if path.is_file()]
        if not found and not root.is_dir():
            return
        yield from found
