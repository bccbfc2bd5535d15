"""Finding the files of a data set: folders, lists of names, images and the labels that belong to them."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from pathlib import Path

from edgeprune.errors import DataError, few
from edgeprune.files import files_below


def folder(path: Path, key: str = "data.root") -> Path:
    """The folder, or one line that it is not there."""
    if not path.is_dir():
        raise DataError(f"{key}: {path} is not a folder")
    return path


def home(root: Path, places: tuple[str, ...], needed: str, what: str) -> Path:
    """The first of `root/place` and `root` itself that holds the folder `needed`.

    Raises:
        DataError: none does.
    """
    folder(root)
    for place in (*places, "."):
        if (root / place / needed).is_dir():
            return root / place
    raise DataError(f"{root}: no {what} here; wanted {Path(places[0], needed) if places else needed}")


def images_in(path: Path, pattern: str = "*", recursive: bool = False) -> list[Path]:
    """The image files, in order of their names."""
    found = (p for p in files_below(path) if fnmatch.fnmatch(p.name, pattern)) if recursive else path.glob(pattern)
    endings = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
    return sorted(p for p in found if p.suffix.lower() in endings)


def names_in(path: Path) -> list[str]:
    """The names of a list file, one a line; blank lines, Windows line ends and a byte order mark do not count.

    Raises:
        DataError: missing, unreadable, or empty.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        there = few(sorted(p.name for p in path.parent.glob("*.txt")))
        raise DataError(f"{path}: the list is missing (lists there: {there})") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the list cannot be read ({error})") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise DataError(f"{path}: the list is empty")
    return names


def paired(images: list[Path], label_of: Callable[[Path], Path]) -> list[tuple[Path, Path]]:
    """Each image with where its label belongs; `open_dataset` says which are missing."""
    return [(image, label_of(image)) for image in images]


def missing(pairs: list[tuple[Path, Path]]) -> dict[int, str]:
    """What is wrong with the pairs whose image or label is not there, by their number."""
    faults = {}
    for index, (image, label) in enumerate(pairs):
        if not image.is_file():
            faults[index] = f"{image}: image is missing"
        elif not label.is_file():
            faults[index] = f"{image}: its label is missing ({label})"
    return faults
