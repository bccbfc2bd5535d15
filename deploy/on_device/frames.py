"""Images one after the other: of a folder (no library for PNG, PPM and NPY), a video file, or a camera (/dev/video0).

Videos and cameras want OpenCV (JetPack brings it) or PyAV; JPEG one of Pillow, OpenCV, PyAV's imageio.
"""

import collections
import importlib.util
import os

import numpy as np
import pngs

IMAGES = (".png", ".ppm", ".npy", ".jpg", ".jpeg", ".bmp")


def frames(source):
    """Yields (name, (H, W, 3) uint8 RGB). Raises ValueError with one line."""
    if os.path.isdir(source):
        names = sorted(n for n in os.listdir(source) if n.lower().endswith(IMAGES))
        if not names:
            raise ValueError("%s holds no images (%s)" % (source, ", ".join(IMAGES)))
        stems = [os.path.splitext(n)[0] for n in names]
        often = collections.Counter(stems)  # masks are named by the stem; a.jpg and a.png would share one
        return ((s if often[s] == 1 else n, image(os.path.join(source, n))) for s, n in zip(stems, names))
    if not os.path.exists(source):
        raise ValueError("%s: no such file, folder or camera" % source)
    if source.lower().endswith(IMAGES):
        return iter([(os.path.splitext(os.path.basename(source))[0], image(source))])
    if has("cv2"):
        return by_opencv(source)
    if has("av"):
        return by_av(source)
    raise ValueError("%s: videos and cameras want OpenCV or PyAV; python3 -m pip install av" % source)


def folder(source):
    """Where its images lie; of a video or a camera, which are no images, itself."""
    return os.path.dirname(os.path.abspath(source)) if source.lower().endswith(IMAGES) else source


def has(name):
    return importlib.util.find_spec(name) is not None


def image(path):
    """One image file as (H, W, 3) uint8 RGB."""
    kind = os.path.splitext(path)[1].lower()
    try:
        if kind == ".npy":
            held = np.load(path, allow_pickle=False)
            if held.dtype != np.uint8 or held.ndim != 3 or held.shape[2] != 3:
                raise ValueError("%s is %s %s, wanted uint8 (H, W, 3)" % (path, held.dtype, held.shape))
            return held
        if kind == ".ppm":
            return ppm(path)
        if has("PIL"):
            from PIL import Image

            with Image.open(path) as opened:
                return np.array(opened.convert("RGB"))
        if has("cv2"):
            import cv2

            read = cv2.imread(path, cv2.IMREAD_COLOR)
            if read is None:
                raise ValueError("%s cannot be read" % path)
            return read[..., ::-1]
        if kind == ".png":
            return pngs.read(path)
    except OSError as error:
        raise ValueError("%s cannot be read: %s" % (path, error)) from error
    raise ValueError("%s: JPEG and BMP want Pillow; sudo apt install python3-pil" % path)


def ppm(path):
    """A binary PPM (P6) of 8 bits."""
    with open(path, "rb") as handle:
        content = handle.read()
    words, at = [], 0
    while len(words) < 4 and at < len(content):
        end = at
        while end < len(content) and not content[end : end + 1].isspace():
            end += 1
        if content[at : at + 1] == b"#":
            end = content.find(b"\n", at)
            end = len(content) if end < 0 else end
        elif end > at:
            words.append(content[at:end])
        at = end + 1
    if words[:1] != [b"P6"] or len(words) < 4 or words[3] != b"255":
        raise ValueError("%s is no binary PPM of 8 bits" % path)
    width, height = int(words[1]), int(words[2])
    if len(content) < at + 3 * width * height:
        raise ValueError("%s is cut short" % path)
    return np.frombuffer(content, np.uint8, 3 * width * height, at).reshape(height, width, 3)


def by_opencv(source):
    """Of a video file or a camera."""
    import cv2

    opened = cv2.VideoCapture(source)
    if not opened.isOpened():
        raise ValueError("%s cannot be opened by OpenCV" % source)

    def walk():
        try:
            number = 0
            while True:
                good, frame = opened.read()
                if not good:
                    return
                yield "%06d" % number, np.ascontiguousarray(frame[..., ::-1])
                number += 1
        finally:
            opened.release()

    return walk()


def by_av(source):
    """The same by PyAV."""
    import av

    try:
        opened = av.open(source, format="v4l2" if source.startswith("/dev/") else None)
    except (OSError, ValueError) as error:
        raise ValueError("%s cannot be opened: %s" % (source, error)) from error
    if not opened.streams.video:
        raise ValueError("%s holds no video" % source)
    return (("%06d" % n, frame.to_ndarray(format="rgb24")) for n, frame in enumerate(opened.decode(video=0)))


def resized(frame, size):
    """(H, W, 3) at another size, as the training resized its images: bilinear, smoothed where it shrinks (Pillow's)."""
    height, width = size
    if frame.shape[:2] == (height, width):
        return frame
    if has("PIL"):
        from PIL import Image

        return np.asarray(Image.fromarray(np.ascontiguousarray(frame)).resize((width, height), Image.BILINEAR))
    if has("cv2"):
        import cv2

        shrinks = height < frame.shape[0] or width < frame.shape[1]  # to the mean of an area, which is near
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        return cv2.resize(np.ascontiguousarray(frame), (width, height), interpolation=how)
    across = _along(frame.swapaxes(0, 1), width).swapaxes(0, 1)
    return _along(across, height)


def _along(frame, new):
    """Axis 0 at another length, by a triangle as wide as a new pixel is in old ones (two at least)."""
    old = frame.shape[0]
    wide = max(1.0, old / new)
    centre = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(centre - wide).astype(int)
    total, found = np.zeros(new, np.float32), np.zeros((new, *frame.shape[1:]), np.float32)
    for at in (first + n for n in range(int(2 * wide) + 3)):
        weight = np.maximum(0, 1 - np.abs(at - centre) / wide).astype(np.float32)
        weight[(at < 0) | (at >= old)] = 0
        total += weight
        found += weight[:, None, None] * frame[np.clip(at, 0, old - 1)]
    return (found / total[:, None, None] + 0.5).astype(np.uint8)
