"""Builds and measures engines for a host, here or over ssh, one job at a time. Python 3.8+, numpy and the backend.

    python3 agent.py hello   --backend openvino
    python3 agent.py doctor  --backend tensorrt
    python3 agent.py build   --backend openvino --model store/…/dense.onnx
    python3 agent.py layers  --backend openvino --model store/…/probes.onnx
    python3 agent.py pairs   --backend openvino --model A.onnx --other B.onnx --image image.npy --runs 50
    python3 agent.py measure --backend openvino --model A.onnx --image image.npy
    python3 agent.py predict --backend openvino --model A.onnx --image images.npy --out answers.npy

Every job but hello and doctor holds a lease, so that two measurements never overlap. One that measures waits first until
the device has cooled down. Each ends itself after its time limit, and keeps its answer under its job's name, so that an
answer that a broken connection lost is given again.
"""

import sys

if __name__ == "__main__":  # before any other import: what lies here may have the name of any of Python's own modules
    with open((__file__.rpartition("/")[0] or ".") + "/isolate.py", "rb") as isolate:
        exec(compile(isolate.read(), isolate.name, "exec"), {"__file__": isolate.name, "__name__": "isolate"})

import argparse
import contextlib
import json
import os
import shutil
import signal
import time

import board
from lease import lease

HERE = os.path.dirname(os.path.abspath(__file__))

KEPT = 30 * 24 * 3600  # seconds that files lie unused before a greeting removes them
COOLING = 180  # seconds that a device is given to cool down
TIMED = ("layers", "pairs", "measure")  # the jobs that measure
TIMINGS = os.path.join(os.path.expanduser("~"), ".cache", "edgeprune")  # of kernels, for all engines of a device


def cool_down(below, most=COOLING):
    """Wait until the hottest zone is below so many degrees, at most so many seconds; gives what it was in the end."""
    began = due = time.time()
    now = board.hottest()
    while below and now is not None and now > below and time.time() < began + most:
        if time.time() >= due:  # the host passes it on
            told = (now, below, time.time() - began)
            print(
                "waiting for the device to cool down from %.0f C to %.0f: %.0f s so far" % told,
                file=sys.stderr,
                flush=True,
            )
            due += 10
        time.sleep(1)
        now = board.hottest()
    return now


def tidy(home):
    """Remove what hosts have sent, engines beside it and kept answers that nobody has asked for lately."""
    for folder in ("store", "answers"):
        for name in os.listdir(os.path.join(home, folder)) if os.path.isdir(os.path.join(home, folder)) else ():
            path = os.path.join(home, folder, name)
            with contextlib.suppress(OSError):  # another host's greeting removes it, too
                if time.time() - os.stat(path).st_mtime > KEPT and os.path.realpath(path) != os.path.realpath(HERE):
                    shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)


def make(args, model, **more):
    """The engine of a graph; where it has a file, that is kept beside the graph."""
    import engines

    home = os.path.dirname(os.path.abspath(model))
    return engines.BACKENDS[args.backend](
        model, args.precision, None, args.device, args.threads, home=home, timings=TIMINGS, **more
    )


def hello(args):
    import engines

    tidy(TIMINGS)
    version, gpu = engines.version(args.backend, args.device)
    return {"fingerprint": board.fingerprint(), "version": version, "gpu": gpu}


def doctor(args):
    import doctor as doctoring

    return {"findings": doctoring.findings(args.backend, args.device), "fingerprint": board.fingerprint()}


def build(args):
    started = time.time()
    made = make(args, args.model)
    return {
        "backend": made.backend, "precision": made.precision, "seconds": time.time() - started, "facts": made.facts,
        "engine": getattr(made, "kept", None),
    }  # fmt: skip


def layers(args):
    made = make(args, args.model, layers=True)
    if not hasattr(made, "layers"):
        raise ValueError("%s tells no times by layer here yet" % args.backend)
    return {"layers": made.layers(args.runs), "fingerprint": board.fingerprint()}


def pairs(args):
    import measuring
    import numpy as np

    image = np.load(args.image, allow_pickle=False)
    other = argparse.Namespace(**dict(vars(args), precision=args.other_precision or args.precision))
    calls = [make(args, args.model).bind(image), make(other, args.other).bind(image)]
    (a, b, warm, counts), during = measuring.watched_pairs(calls[0], calls[1], args.runs)
    during["disturbed"], during["busy"] = counts
    return {"a": a, "b": b, "warm": warm, "during": during, "fingerprint": board.fingerprint()}


def measure(args):
    import measuring
    import numpy as np

    image = np.load(args.image, allow_pickle=False)
    return dict(measuring.measure(make(args, args.model), image, args.fps), fingerprint=board.fingerprint())


def predict(args):
    import numpy as np

    images = np.load(args.image, allow_pickle=False)
    made = make(args, args.model)
    answers = np.concatenate([made.predict(np.ascontiguousarray(images[i : i + 1])) for i in range(len(images))])
    with open(args.out + ".part", "wb") as handle:
        np.save(handle, answers, allow_pickle=False)
    os.replace(args.out + ".part", args.out)
    return {"shape": list(answers.shape), "out": args.out}


def given_before(path):
    """Print the answer that is kept at `path`; False where there is none."""
    if not path or not os.path.exists(path):
        return False
    with open(path) as handle:
        sys.stdout.write(handle.read())
    return True


JOBS = {
    "hello": hello, "doctor": doctor, "build": build, "layers": layers, "pairs": pairs, "measure": measure, "predict": predict,
}  # fmt: skip


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=sorted(JOBS))
    parser.add_argument("--backend", choices=("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"), required=True)
    parser.add_argument("--model")
    parser.add_argument("--other")
    parser.add_argument("--image")
    parser.add_argument("--out")
    parser.add_argument("--precision", default="f32")
    parser.add_argument("--other_precision", help="of the other model; default: the same")
    parser.add_argument("--device", default="CPU")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--fps", type=float, default=30, help="of the paced run")
    parser.add_argument("--cool", type=float, default=0, help="wait until the hottest zone is below so many degrees")
    parser.add_argument("--limit", type=int, default=600, help="seconds after which the job ends itself")
    parser.add_argument("--wait", type=float, default=600, help="seconds to wait for another measurement to end")
    parser.add_argument("--answer", help="file that keeps the answer")
    args = parser.parse_args(argv)
    if given_before(args.answer):
        return 0
    try:
        with lease(args.wait) if args.job not in ("hello", "doctor") else contextlib.nullcontext():
            if given_before(args.answer):  # the same job, whose connection broke, has ended meanwhile
                return 0
            cooled = cool_down(args.cool if args.job in TIMED else 0)  # its time is no part of the job's
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(args.limit)
            found = dict(JOBS[args.job](args), hottest_c=cooled)
            signal.alarm(0)
    except Exception as error:
        print("error: %s" % (str(error).strip().splitlines() or [type(error).__name__])[0], file=sys.stderr)
        return 1
    text = json.dumps(found)
    if args.answer:
        with open(args.answer + ".part", "w") as handle:
            handle.write(text)
        os.replace(args.answer + ".part", args.answer)
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
