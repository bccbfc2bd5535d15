"""Run a bundle's engine over a folder of images, a video or a camera; write the masks or show them, with images a second.

    python3 play.py --source images/ --out masks/
    python3 play.py --source video.mp4 --out masks/ --overlay
    python3 play.py --source /dev/video0 --show

The engine is built the first time and taken from engines/ after that, unless anything that it hangs on has changed.
Exit status: 0 done, 1 an error.
"""

import sys

if __name__ == "__main__":  # before any other import: what lies here may have the name of any of Python's own modules
    with open((__file__.rpartition("/")[0] or ".") + "/isolate.py", "rb") as isolate:
        exec(compile(isolate.read(), isolate.name, "exec"), {"__file__": isolate.name, "__name__": "isolate"})

import argparse
import json
import os
import time

import manifest

HERE = os.path.dirname(os.path.abspath(__file__))


def play(folder, args):
    """Run over every image; gives the summary that is printed."""
    manifest.verify(folder, args.signers, args.signer)
    import frames
    import numpy as np
    import pngs

    with open(os.path.join(folder, "about.json")) as handle:
        about = json.load(handle)
    if about["task"] != "segmentation":
        raise ValueError(
            "masks are written of segmentation only; this bundle is of %s (./run.sh checks it)" % about["task"]
        )
    if args.out and os.path.realpath(frames.folder(args.source)) == os.path.realpath(args.out):
        raise ValueError(
            "--out %s is where the images lie: masks would take their place; give another folder" % args.out
        )
    images = frames.frames(args.source)
    show = window() if args.show else None
    made, size = engine(folder, about, args), about["input"]["shape"][1:3]
    if args.out:
        os.makedirs(args.out, exist_ok=True)
    palette = np.asarray(about["palette"], np.uint8)
    spent, started, mask = [], time.perf_counter(), None
    for name, image in images:
        sized = np.ascontiguousarray(frames.resized(image, size)[None])
        began = time.perf_counter()
        mask = made.predict(sized)[0]
        spent.append((time.perf_counter() - began) * 1000)
        if args.out and args.overlay:
            pngs.write(os.path.join(args.out, name + ".png"), blended(sized[0], mask, palette))
        elif args.out:
            pngs.write(os.path.join(args.out, name + ".png"), mask, palette)
        if show and not show(blended(sized[0], mask, palette), 1000 / spent[-1]):
            break
        if args.most and len(spent) == args.most:
            break
    if mask is None:
        raise ValueError("%s gave no image" % args.source)
    whole = time.perf_counter() - started
    ms = float(np.median(spent))
    return "%d images: %.2f ms an image by the engine (%.1f a second), %.1f a second with reading and writing; %s, %s" % (
        len(spent), ms, 1000 / ms, len(spent) / whole, made.backend, made.precision,
    )  # fmt: skip


def engine(folder, about, args):
    import engines

    backend = args.backend or about["backend"]
    return engines.BACKENDS[backend](
        os.path.join(folder, args.role + ".onnx"), args.precision or about["precision"], None, args.device or about["device"],
        about["threads"] if args.threads is None else args.threads, home=manifest.engines_home(folder, args.signers),
    )  # fmt: skip


def blended(image, mask, palette):
    """(H, W, 3) uint8: the image half covered by its classes' colours."""
    return (image // 2 + palette[mask] // 2).astype("uint8")


def window():
    """A call (image, fps) -> go on?, by OpenCV's window."""
    import frames

    if not frames.has("cv2"):
        raise ValueError("--show wants OpenCV; python3 -m pip install opencv-python, or use --out")
    import cv2

    def show(image, fps):
        shown = cv2.putText(
            image[..., ::-1].copy(), "%.1f/s" % fps, (8, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (255, 255, 255), 2
        )
        try:
            cv2.imshow("edgeprune (q ends)", shown)
            return cv2.waitKey(1) & 255 != ord("q")
        except cv2.error as error:
            raise ValueError("this OpenCV cannot show windows; use --out") from error

    return show


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, help="a folder of images, an image, a video file, or /dev/video0")
    parser.add_argument("--out", help="folder for the masks (PNG with the classes' colours)")
    parser.add_argument("--overlay", action="store_true", help="write image and mask blended instead of the mask")
    parser.add_argument("--show", action="store_true", help="show them in a window")
    parser.add_argument("--role", choices=("pruned", "dense"), default="pruned")
    parser.add_argument("--most", type=int, help="end after so many images")
    parser.add_argument(
        "--backend", choices=("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"), help="default: the bundle's"
    )
    parser.add_argument("--precision", choices=["f32", "f16", "bf16", "int8"], help="default: the bundle's")
    parser.add_argument("--device", help="the backend's name of the device; default: the bundle's")
    parser.add_argument("--threads", type=int, help="of a CPU engine; 0: the backend decides; default: the bundle's")
    parser.add_argument("--signers", help="file of allowed signers; a bundle that none of them signed is refused")
    parser.add_argument("--signer", help="the name in that file that must have signed")
    parser.add_argument("--debug", action="store_true", help="show the trace of an error")
    parser.add_argument("--bundle", default=HERE, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    try:
        print(play(args.bundle, args))
        return 0
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except Exception as error:
        if args.debug:
            raise
        print("error: %s" % (str(error).strip().splitlines() or [type(error).__name__])[0], file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
