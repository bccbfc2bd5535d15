"""Your own images: `ROOT/{train,val}/images` and `ROOT/{train,val}/labels`, same file stems, ids in the labels' pixels."""

from __future__ import annotations

from pathlib import Path

from edgeprune.data.dataset import UNKNOWN, Files, Size, ids_table
from edgeprune.data.layout import folder, images_in, paired
from edgeprune.data.palettes import colors
from edgeprune.errors import DataError, few

_CACHED = 1 << 30  # bytes of a split that is kept in memory unasked


def open_folder(
    root: Path,
    split: str,
    size: Size,
    classes: list[str],
    ignore: list[int] | int = 255,
    cache: bool | None = None,
) -> Files:
    """The split "train" or "val".

    Args:
        classes: the names of ids 0, 1, ….
        ignore: label values that are not judged.
        cache: keep what was read in memory; None: where the whole split takes less than a gigabyte there.

    Raises:
        DataError: a folder is missing, the split is empty, or an image has two labels.
    """
    folder(root)
    if isinstance(classes, str) or not all(isinstance(c, str) for c in classes):
        raise DataError(
            f"data.args.classes: is a list of names, and YAML reads no, yes, on, off and numbers as something else: write them in quotes; "
            f"not {classes!r}"
        )
    if not 2 <= len(classes) <= UNKNOWN or len(set(classes)) != len(classes):
        raise DataError(f"data.args.classes: needs two or more different names (at most {UNKNOWN}), not {few(classes)}")
    ignored = ignore if isinstance(ignore, list) else [ignore]
    if not all(isinstance(v, int) and 0 <= v <= 255 for v in ignored):
        raise DataError(f"data.args.ignore: is a label value, 0 to 255, or a list of them, not {ignore!r}")
    images, labels = folder(root / split / "images"), folder(root / split / "labels")

    by_stem: dict[str, Path] = {}
    for path in images_in(labels):
        if (other := by_stem.setdefault(path.stem, path)) != path:
            raise DataError(f"{labels}: {other.name} and {path.name} are labels of the same image; keep one")

    def label_of(image: Path) -> Path:
        if image.stem not in by_stem:  # in a format that labels may not have, which its reader will say
            refused = (labels / f"{image.stem}{ending}" for ending in (".avif", ".jp2", ".j2k", ".gif"))
            by_stem[image.stem] = next((path for path in refused if path.is_file()), labels / f"{image.stem}.png")
        return by_stem[image.stem]

    pairs = paired(images_in(images), label_of)
    if not pairs:
        raise DataError(f"{images}: holds no images (.png, .jpg, .bmp, .tif, .webp)")
    if cache is None:
        cache = not isinstance(size, int) and size is not None and 4 * len(pairs) * size[0] * size[1] < _CACHED
    return Files(pairs, list(classes), colors(len(classes)), size, ids_table(len(classes), [*ignored, 255]), cache)
