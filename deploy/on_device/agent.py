"""The other end of an ssh target: builds and measures engines, one job at a time. Python 3.8+, numpy and the backend.

    python3 agent.py hello   --backend openvino
    python3 agent.py build   --backend openvino --model store/…/dense.onnx
    python3 agent.py layers  --backend openvino --model store/…/probes.onnx
    python3 agent.py pairs   --backend openvino --model A.onnx --other B.onnx --image image.npy --runs 50
    python3 agent.py predict --backend openvino --model A.onnx --image images.npy --out masks.npy

Every job holds a lease, so that two measurements never overlap; waits until the device has cooled down; ends itself after
its time limit; and keeps its answer under its job's name, so that an answer that a broken connection lost is given again.
"""

import argparse
import contextlib
import fcntl
import glob
import json
import os
import platform
import signal
import sys
import tempfile
import time

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import engines  # noqa: E402

LEASE = os.environ.get("EDGEPRUNE_LEASE", os.path.join(tempfile.gettempdir(), "edgeprune.lease"))


def read(path):
    """A small file's text, or None."""
    try:
        with open(path) as handle:
            return handle.read().strip("\0\n ")
    except OSError:
        return None


def fingerprint():
    """What a measurement must say about this machine."""
    names = [
        line.split(":", 1)[1].strip() for line in (read("/proc/cpuinfo") or "").splitlines() if "model name" in line
    ]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "machine": platform.machine(),
        "system": "%s %s" % (platform.system(), platform.release()),
        "board": read("/proc/device-tree/model"),
        "l4t": read("/etc/nv_tegra_release"),
        "cpu": names[0] if names else platform.processor() or "unknown",
        "cores": cores,
        "governor": read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "power_mode": read("/var/lib/nvpmodel/status"),
        "load_1min": round(os.getloadavg()[0], 2),
        "hottest_c": hottest(),
    }


def hottest():
    """The highest temperature of the thermal zones, in degrees Celsius; None where there are none."""
    found = [read(path) for path in glob.glob("/sys/class/thermal/thermal_zone*/temp")]
    degrees = [float(text) / 1000 for text in found if text and text.lstrip("-").isdigit()]
    return max(degrees) if degrees else None


@contextlib.contextmanager
def lease(wait):
    """Hold the device; it goes with the process, however that ends."""
    handle = os.open(LEASE, os.O_RDWR | os.O_CREAT, 0o666)
    with contextlib.suppress(OSError):
        os.chmod(LEASE, 0o666)  # another user's measurement must be able to wait for this one
    until = time.time() + wait
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.time() > until:
                    holder = read(LEASE) or "unknown"
                    raise RuntimeError("another measurement (process %s) holds the device" % holder) from None
                time.sleep(0.2)
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)


def cool_down(below, most=180):
    """Wait until the hottest zone is below so many degrees; gives what it was in the end."""
    until = time.time() + most
    while below and hottest() is not None and hottest() > below and time.time() < until:
        time.sleep(1)
    return hottest()


def once(call):
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000


def warm_up(call, most=60, window=6, spread=0.05):
    """Call until two windows' medians agree; (calls made, steady?)."""
    times = [once(call) for _ in range(2 * window)]
    while len(times) < most:
        before, after = np.median(times[-2 * window : -window]), np.median(times[-window:])
        if abs(before - after) <= spread * after:
            return len(times), True
        times.append(once(call))
    return len(times), False


def make(args, model):
    return engines.BACKENDS[args.backend](model, args.precision, None, args.device, args.threads)


def hello(args):
    return {"fingerprint": fingerprint(), "version": engines.version(args.backend, args.device)}


def build(args):
    started = time.time()
    made = make(args, args.model)
    return {"backend": made.backend, "precision": made.precision, "seconds": time.time() - started}


def layers(args):
    backend = engines.BACKENDS[args.backend]
    if not hasattr(backend, "layers"):
        raise ValueError("%s tells no times by layer here yet" % args.backend)
    made = backend(args.model, args.precision, None, args.device, args.threads, layers=True)
    return {"layers": made.layers(args.runs), "fingerprint": fingerprint()}


def pairs(args):
    image = np.load(args.image, allow_pickle=False)
    calls = [make(args, model).bind(image) for model in (args.model, args.other)]
    warm = [warm_up(call) for call in calls]
    times = ([], [])
    for run in range(args.runs):
        for which in ((0, 1), (1, 0))[run % 2]:
            times[which].append(once(calls[which]))
    return {"a": times[0], "b": times[1], "warm": warm, "fingerprint": fingerprint()}


def predict(args):
    images = np.load(args.image, allow_pickle=False)
    made = make(args, args.model)
    masks = np.concatenate([made.predict(np.ascontiguousarray(images[i : i + 1])) for i in range(len(images))])
    with open(args.out + ".part", "wb") as handle:
        np.save(handle, masks, allow_pickle=False)
    os.replace(args.out + ".part", args.out)
    return {"shape": list(masks.shape)}


JOBS = {"hello": hello, "build": build, "layers": layers, "pairs": pairs, "predict": predict}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=sorted(JOBS))
    parser.add_argument("--backend", choices=sorted(engines.BACKENDS), required=True)
    parser.add_argument("--model")
    parser.add_argument("--other")
    parser.add_argument("--image")
    parser.add_argument("--out")
    parser.add_argument("--precision", default="f32")
    parser.add_argument("--device", default="CPU")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--cool", type=float, default=0, help="wait until the hottest zone is below so many degrees")
    parser.add_argument("--limit", type=int, default=600, help="seconds after which the job ends itself")
    parser.add_argument("--wait", type=float, default=600, help="seconds to wait for another measurement to end")
    parser.add_argument("--answer", help="file that keeps the answer")
    args = parser.parse_args(argv)
    if args.answer and os.path.exists(args.answer):
        sys.stdout.write(read(args.answer))
        return 0
    try:
        with lease(args.wait) if args.job != "hello" else contextlib.nullcontext():
            if args.answer and os.path.exists(args.answer):  # the same job, whose connection broke, has ended meanwhile
                sys.stdout.write(read(args.answer))
                return 0
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(args.limit)
            cooled = cool_down(args.cool)
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
