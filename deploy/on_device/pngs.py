"""PNG without a library: 8-bit images in, masks with a palette out. zlib and numpy.

The format: https://www.w3.org/TR/png/ (signature, IHDR, PLTE, IDAT, IEND; five row filters).
"""

import struct
import zlib

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def read(path):
    """(H, W, 3) uint8 RGB. Raises ValueError for what it does not read: 16 bits, fewer than 8, interlaced."""
    with open(path, "rb") as handle:
        content = handle.read()
    if content[:8] != SIGNATURE:
        raise ValueError("%s is no PNG" % path)
    try:
        return _decoded(content)
    except (zlib.error, struct.error, ValueError, IndexError, TypeError) as error:
        raise ValueError("%s cannot be read as PNG: %s" % (path, error)) from error


def _decoded(content):
    """(H, W, 3) of a PNG's bytes."""
    parts, header, palette, at = [], None, None, 8
    while at + 8 <= len(content):
        size, kind = struct.unpack(">I4s", content[at : at + 8])
        body = content[at + 8 : at + 8 + size]
        header = struct.unpack(">IIBBBBB", body) if kind == b"IHDR" else header
        palette = np.frombuffer(body, np.uint8).reshape(-1, 3) if kind == b"PLTE" else palette
        if kind == b"IDAT":
            parts.append(body)
        at += 12 + size
    if header is None or header[2] != 8 or header[6] or header[3] not in _CHANNELS:
        raise ValueError("without a library only those of 8 bits that are not interlaced are read")
    width, height, channels = header[0], header[1], _CHANNELS[header[3]]
    rows = _unfiltered(zlib.decompress(b"".join(parts)), height, width * channels, channels)
    pixels = rows.reshape(height, width, channels)
    if header[3] == 3:
        return palette[pixels[..., 0]]
    return np.repeat(pixels[..., :1], 3, axis=2) if channels < 3 else np.ascontiguousarray(pixels[..., :3])


def _unfiltered(raw, height, row, step):
    """(height, row) bytes: each row was stored as its difference to a guess from the left and above."""
    stored = np.frombuffer(raw, np.uint8).reshape(height, row + 1)
    found = np.zeros((height, row), np.uint8)
    above = np.zeros(row, np.uint8)
    for y in range(height):
        kind, line = stored[y, 0], stored[y, 1:].copy()
        if kind == 1:
            for c in range(step):
                line[c::step] = np.cumsum(line[c::step], dtype=np.uint64).astype(np.uint8)
        elif kind == 2:
            line += above
        elif kind > 2:
            line = _sequential(kind, line.tolist(), above.tolist(), step)
        found[y] = above = line
    return found


def _sequential(kind, line, above, step):
    """Filters 3 (average) and 4 (Paeth), which need the byte before."""
    for x in range(len(line)):
        a = line[x - step] if x >= step else 0
        b = above[x]
        if kind == 3:
            guess = (a + b) // 2
        else:
            c = above[x - step] if x >= step else 0
            p = a + b - c
            pa, pb, pc = abs(p - a), abs(p - b), abs(p - c)
            guess = a if pa <= pb and pa <= pc else b if pb <= pc else c
        line[x] = (line[x] + guess) & 255
    return np.array(line, np.uint8)


def write(path, pixels, palette=None):
    """Write an (H, W, 3) uint8 image, or an (H, W) uint8 mask whose class k has the colour palette[k]."""
    height, width = pixels.shape[:2]
    flat = pixels.reshape(height, -1)
    rows = np.concatenate([np.zeros((height, 1), np.uint8), flat], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 3 if pixels.ndim == 2 else 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b"")]
    if pixels.ndim == 2:
        chunks.insert(1, (b"PLTE", np.asarray(palette, np.uint8).tobytes()))
    with open(path, "wb") as handle:
        handle.write(SIGNATURE)
        for kind, body in chunks:
            handle.write(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)))
