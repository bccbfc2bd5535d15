"""Build, check and measure a bundle's engine on the device. Python 3.8+, numpy and the backend's own runtime; no edgeprune.

    python3 check.py
    python3 check.py --backend onnxruntime --precision f32      a check of the graph where there is no TensorRT
    python3 check.py --runs 200

Writes result.json. Exit status: 0 all gates met, 3 a gate failed, 1 an error.
"""

import argparse
import contextlib
import hashlib
import json
import os
import platform
import subprocess
import sys
import time

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import engines  # noqa: E402
import score  # noqa: E402


class Fault(Exception):
    """One line for the user."""


def verify(folder):
    """Every file of SHA256SUMS is whole."""
    path = os.path.join(folder, "SHA256SUMS")
    if not os.path.exists(path):
        raise Fault("%s is missing; copy the whole bundle" % path)
    with open(path) as handle:
        for line in handle:
            digest, name = line.split(None, 1)
            name = name.strip()
            file = os.path.join(folder, name)
            if not os.path.exists(file):
                raise Fault("%s is missing; copy the whole bundle" % file)
            found = hashlib.sha256()
            with open(file, "rb") as content:
                for block in iter(lambda: content.read(1 << 20), b""):  # noqa: B023
                    found.update(block)
            if found.hexdigest() != digest:
                raise Fault("%s is damaged (its checksum differs); copy the bundle again" % file)


def device_state():
    """What a latency without would mean nothing."""
    state = {"machine": platform.machine(), "system": platform.release(), "python": platform.python_version()}
    for key, path in (
        ("l4t", "/etc/nv_tegra_release"),
        ("model", "/proc/device-tree/model"),
        ("power_mode", "/var/lib/nvpmodel/status"),
    ):
        try:
            with open(path) as handle:
                state[key] = handle.read().strip("\0\n ")
        except OSError:
            state[key] = None
    with contextlib.suppress(OSError, subprocess.SubprocessError):  # no nvpmodel: no Jetson
        told = subprocess.run(["nvpmodel", "-q"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=10)
        state["power_mode"] = told.stdout.decode().strip() or state["power_mode"]
    return state


def once(call):
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000


def pairs(dense, pruned, runs):
    """Interleaved times of both, milliseconds; the first of a pair changes every time."""
    for call in (dense, pruned):
        for _ in range(20):
            call()
    times = ([], [])
    for run in range(runs):
        for which in ((0, 1), (1, 0))[run % 2]:
            times[which].append(once((dense, pruned)[which]))
    return times


def check(folder, backend, precision, runs, out):
    """The whole check; gives the exit status."""
    verify(folder)
    with open(os.path.join(folder, "about.json")) as handle:
        about = json.load(handle)
    backend, precision, runs = (
        backend or about["backend"],
        precision or about["precision"],
        runs or about["latency_runs"],
    )
    data = dict(np.load(os.path.join(folder, "parity.npz"), allow_pickle=False))
    calibration = os.path.join(folder, "calibration.npz")
    images = np.load(calibration, allow_pickle=False)["images"] if os.path.exists(calibration) else None
    made = {}
    for role in ("dense", "pruned"):
        print("building %s with %s at %s" % (role, backend, precision), file=sys.stderr)
        started = time.time()
        made[role] = engines.BACKENDS[backend](os.path.join(folder, role + ".onnx"), precision, images, about["device"])
        print("  %.0f s" % (time.time() - started), file=sys.stderr)
    answers = np.concatenate([made["pruned"].predict(image[None]) for image in data["images"]])
    task = score.TASKS[about.get("task", "segmentation")]
    times = pairs(made["dense"].bind(data["images"][:1]), made["pruned"].bind(data["images"][:1]), runs)
    result = {
        "schema": 1,
        "recipe": about["recipe"],
        "target": about["target"],
        "backend": made["pruned"].backend,
        "precision_asked": precision,
        "precision_found": made["pruned"].precision,
        "device": device_state(),
        "task": about.get("task", "segmentation"),
        "images": len(answers),
        "pytorch": task.judge and task.judge(data["labels"], data["pruned_answers"], about["classes"]),
        "engine": task.judge and task.judge(data["labels"], answers, about["classes"]),
        task.agreement: task.same(answers, data["pruned_answers"], data),
        "dense_latency": score.spread(times[0]),
        "latency": score.spread(times[1]),
        "speedup": score.ratio(*times),
    }
    result["gates"] = score.gates(about["gates"], result)
    judged = {gate["name"] for gate in result["gates"]}
    result["not_judged"] = sorted(n for n, limit in about["gates"].items() if limit is not None and n not in judged)
    with open(out + ".part", "w") as handle:
        json.dump(result, handle, indent=1)
    os.replace(out + ".part", out)
    return report(result, out)


def report(result, out):
    print(
        "%s@%s  %s, asked %s, found %s"
        % (result["recipe"], result["target"], result["backend"], result["precision_asked"], result["precision_found"])
    )
    task = score.TASKS[result["task"]]
    if task.judge:
        told = (100 * result["pytorch"][task.key], 100 * result["engine"][task.key])
        print("%s on %d images: PyTorch %.2f, engine %.2f" % ((task.name, result["images"]) + told))
    print("%s on %d images: %.4f" % (task.agreement.replace("_", " "), result["images"], result[task.agreement]))
    print(
        "latency p50: dense %.2f ms, pruned %.2f ms; speed-up %.2f [%.2f, %.2f]"
        % (
            result["dense_latency"]["p50"],
            result["latency"]["p50"],
            result["speedup"]["median"],
            *result["speedup"]["ci95"],
        )
    )
    for gate in result["gates"]:
        print(
            "  %s %-16s limit %s, value %s"
            % ("ok  " if gate["passed"] else "FAIL", gate["name"], gate["limit"], gate["value"])
        )
    if result["not_judged"]:
        print("  not judged here: %s" % ", ".join(result["not_judged"]))
    print("written: %s" % out)
    return 0 if all(gate["passed"] for gate in result["gates"]) else 3


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=sorted(engines.BACKENDS), help="default: the bundle's")
    parser.add_argument("--precision", choices=["f32", "f16", "int8"], help="default: the bundle's")
    parser.add_argument("--runs", type=int, help="timed pairs; default: the bundle's")
    parser.add_argument("--out", default=os.path.join(HERE, "result.json"), help="where the result goes")
    parser.add_argument("--debug", action="store_true", help="show the trace of an error")
    args = parser.parse_args(argv)
    try:
        return check(HERE, args.backend, args.precision, args.runs, args.out)
    except Exception as error:
        if args.debug:
            raise
        print("error: %s" % (str(error).strip().splitlines() or [type(error).__name__])[0], file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
