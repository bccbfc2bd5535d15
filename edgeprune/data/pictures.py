"""Image and label files as they lie on the disk: read as they are meant, or refused in one line that names the file.

What a file is follows from its content, not from its ending. A label's values are ids, so anything that changes values is refused:
lossy compression, grey values that reading scales or inverts, colours, 16 bits.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from edgeprune.data.matlab import read_matrix
from edgeprune.errors import DataError, first_line

_LOSSY = ("JPEG", "MPO", "JPEG2000", "WEBP", "AVIF")  # always, or so that the file does not tell
_KEEPS = ("PNG", "BMP", "DIB", "TIFF")
_TIFF_KEEPS = (
    "raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "lzma", "zstd", "tiff_ccitt", "group3", "group4",
)  # fmt: skip
_RAW = {"L": ("L", "L;R"), "1": ("1", "1;R"), "P": ("P", "P;1", "P;2", "P;4", "P;R")}  # by mode, what keeps the values


def opened_image(path: Path, turn: bool = False) -> Image.Image:
    """A whole image in RGB; transparency is dropped.

    Args:
        turn: turn it as its EXIF says. Else such an image is refused: who drew labels on a rotated view has other places in mind.

    Raises:
        DataError: missing, unreadable, turned, of several pages or frames, or of more than 8 bits a channel.
    """

    def look(image: Image.Image) -> None:
        _one_frame(path, image, "image")
        if image.mode.startswith(("I", "F")):
            raise DataError(f"{path}: image has mode {image.mode}; 8 bits a channel are wanted")
        if ";16" in _rawmode(image):
            raise DataError(f"{path}: image has 16 bits a channel; 8 bits a channel are wanted")
        if not turn:
            _upright(path, image, "image")  # last: to find EXIF a PNG may be read, and then forgets how it was stored

    return _opened(path, "image", look, lambda i: (ImageOps.exif_transpose(i) if turn else i).convert("RGB"))


def opened_label(path: Path) -> Image.Image:
    """A label's values, mode L or P: of an image file as they are stored, of a MATLAB file its map `S` (COCO-Stuff).

    Raises:
        DataError: missing, unreadable, or stored in a way that does not keep ids of one byte a pixel.
    """
    if path.suffix == ".mat":
        return _opened_mat(path)

    def look(image: Image.Image) -> None:
        _keeps_values(path, image)
        _one_frame(path, image, "label")
        if image.mode not in _RAW:
            told = " (colours: turn them into ids first)" if image.mode.startswith("RGB") else ""
            raise DataError(
                f"{path}: label has mode {image.mode}{told}; one byte a pixel (class ids, mode L or P) is wanted"
            )
        if (stored := _rawmode(image)) not in _RAW[image.mode]:
            raise DataError(
                f"{path}: label is stored as {stored}, grey of less than 8 bits or inverted, and its values change when "
                "it is read; one byte a pixel (class ids, mode L or P) is wanted"
            )
        _upright(path, image, "label")

    return _opened(path, "label", look, lambda i: Image.fromarray(np.asarray(i, np.uint8)) if i.mode == "1" else i)


def _opened(
    path: Path, what: str, look: Callable[[Image.Image], None], made: Callable[[Image.Image], Image.Image]
) -> Image.Image:
    """What `made` makes of the image, after `look` has refused what it will not have."""
    try:
        with Image.open(path) as image:
            image.verify()  # a PNG's checksums: reading alone passes over them
        with Image.open(path) as image:
            look(image)
            image.load()
            return made(image)
    except FileNotFoundError as error:
        raise DataError(f"{path}: {what} is missing") from error
    except DataError:
        raise
    except (
        Exception
    ) as error:  # in a damaged file decoders stumble in every way: struct, Index, Zero Division, Memory …
        raise DataError(f"{path}: {what} cannot be read ({first_line(error) or type(error).__name__})") from error


def _rawmode(image: Image.Image) -> str:
    """How the pixels are stored, such as "L;4" or "RGB;16B"; of an image that is opened and not yet read."""
    tiles = getattr(image, "tile", None)
    args = tiles[0].args if tiles else ""
    return args if isinstance(args, str) else str(args[0]) if args else ""


def _one_frame(path: Path, image: Image.Image, what: str) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a camera's second picture there is a preview or a depth map
        raise DataError(f"{path}: {what} holds {frames} pages or frames; one is wanted")


def _upright(path: Path, image: Image.Image, what: str) -> None:
    turned = image.getexif().get(0x0112)  # Pillow tells of EXIF that is not whole as if there were none
    if turned in range(2, 9):
        raise DataError(
            f"{path}: {what} is stored turned (EXIF orientation {turned}); write images, and their labels, upright "
            "(mogrify -auto-orient)"
        )


def _keeps_values(path: Path, image: Image.Image) -> None:
    """Refuse what may have stored other values than it was given."""
    kind = image.format or "unknown"
    packed = image.info.get("compression") if kind == "TIFF" else None
    if kind in _LOSSY or (packed is not None and packed not in _TIFF_KEEPS):
        raise DataError(
            f"{path}: label is stored as {f'TIFF by {packed}' if packed else kind}, which is lossy or may be, so ids change; write labels "
            "as PNG from their source (converting this file does not bring its ids back)"
        )
    if kind not in _KEEPS:
        raise DataError(f"{path}: label is a {kind} file; ids are read from PNG, BMP and TIFF")


def _opened_mat(path: Path) -> Image.Image:
    """COCO-Stuff's label map `S` out of a MATLAB file."""
    try:
        values = read_matrix(path.read_bytes(), "S")
    except FileNotFoundError as error:
        raise DataError(f"{path}: label is missing") from error
    except KeyError as error:
        raise DataError(f"{path}: label holds no map S") from error
    except (OSError, ValueError, zlib.error) as error:
        raise DataError(f"{path}: label cannot be read ({first_line(error)})") from error
    if values.min() < 0 or values.max() > 255:
        raise DataError(f"{path}: label's S holds {values.min()} to {values.max()}; ids of 0 to 255 are wanted")
    return Image.fromarray(values.astype(np.uint8))
