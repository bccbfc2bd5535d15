"""Build, check and measure a bundle's engine on the device. Python 3.8+, numpy and the backend's own runtime; no edgeprune.

    ./run.sh                                            or python3 check.py
    python3 check.py --lock-clocks                      clocks at the power mode's most, given back afterwards
    python3 check.py --backend onnxruntime --precision f32      a check of the graph where there is no TensorRT
    python3 check.py --signers allowed_signers          only a bundle that one of them signed

Writes result.json and result.zip (with the answers); `edgeprune verify --result result.zip` makes the report of it. The power
mode is never changed, and nothing reboots. Exit status: 0 all gates met, 3 a gate failed, 1 an error.
"""

import sys

if __name__ == "__main__":  # before any other import: what lies here may have the name of any of Python's own modules
    with open((__file__.rpartition("/")[0] or ".") + "/isolate.py", "rb") as isolate:
        exec(compile(isolate.read(), isolate.name, "exec"), {"__file__": isolate.name, "__name__": "isolate"})

import argparse
import hashlib
import json
import os
import time
import zipfile

import manifest

HERE = os.path.dirname(os.path.abspath(__file__))

ROLES = ("dense", "pruned")


def check(folder, args):
    """The whole check; gives the exit status."""
    sums = manifest.verify(folder, args.signers, args.signer)  # before anything else of the bundle is imported
    import board
    import clocks
    import measuring
    import numpy as np
    import score
    from lease import lease
    from saying import doing

    with open(os.path.join(folder, "about.json")) as handle:
        about = json.load(handle)
    with np.load(os.path.join(folder, "parity.npz"), allow_pickle=False) as kept:
        data = {name: kept[name] for name in kept.files}
    task = score.TASKS[about["task"]]
    runs, image = args.runs or about["latency_runs"], data["images"][:1]
    with lease(args.wait), doing("building, checking and measuring"):
        made = {role: make(folder, role, about, args) for role in ROLES}
        answers = np.concatenate([made["pruned"].predict(one[None]) for one in data["images"]])
        with clocks.locked(args.lock_clocks):
            calls = [made[role].bind(image) for role in ROLES]
            (slow, fast, warm, counts), during = measuring.watched_pairs(calls[0], calls[1], runs)
            during["disturbed"], during["busy"] = counts
            settings = {"seconds": args.seconds}
            boundaries = {
                role: measuring.measure(made[role], image, args.fps, settings) for role in ROLES if args.seconds
            }
            device = board.fingerprint()
        by_layers = by_layer(folder, about, args)
    latencies = [
        dict(score.spread(times), boundary=score.whole(made["pruned"].output), warmup=w[0], steady=w[1])
        for times, w in zip((slow, fast), warm)
    ]
    result = {
        "schema": 3,
        "recipe": about["recipe"],
        "target": about["target"],
        "backend": made["pruned"].backend,
        "ran_on": {"device": args.device or about["device"], "dla": args.dla, "threads": threads_of(args, about)},
        "precision_asked": args.precision or about["precision"],
        "precision_found": made["pruned"].precision,
        "dense_precision_found": made["dense"].precision,
        "engines": {role: made[role].facts for role in ROLES},
        "graphs": {role: sums[role + ".onnx"] for role in ROLES},
        "bundle": hashlib.sha256(open_bytes(os.path.join(folder, "SHA256SUMS"))).hexdigest(),
        "device": device,
        "during": during,
        "task": about["task"],
        "images": len(answers),
        "image_sums": [hashlib.sha256(np.ascontiguousarray(one).tobytes()).hexdigest() for one in data["images"]],
        "pytorch": task.judge and task.judge(data["labels"], data["pruned_answers"], about["classes"]),
        "engine": task.judge and task.judge(data["labels"], answers, about["classes"]),
        task.agreement: task.same(answers, data["pruned_answers"], data),
        "dense_latency": latencies[0],
        "latency": latencies[1],
        "speedup": score.ratio(slow, fast),
        "boundaries": boundaries,
        "layers": by_layers,
    }
    result["gates"] = score.gates(about["gates"], result)
    judged = {gate["name"] for gate in result["gates"]}
    result["not_judged"] = sorted(n for n, limit in about["gates"].items() if limit is not None and n not in judged)
    write(args.out, result, answers)
    return report(result, args.out)


def make(folder, role, about, args):
    """Build an engine, or take the one that was built here before if it still fits."""
    backend, precision = args.backend or about["backend"], args.precision or about["precision"]
    started = time.time()
    print("%s: %s at %s …" % (role, backend, precision), file=sys.stderr)
    built = engine(folder, role, about, args)
    ahead = built.facts.get("route") == "built ahead"
    how = "taken from engines/" if not getattr(built, "built", True) else "taken as built ahead" if ahead else "built"
    print("%s: %s in %.0f s, found %s" % (role, how, time.time() - started, built.precision), file=sys.stderr)
    placement = built.facts.get("placement")
    if placement:
        print("  DLA holds %d layers, the GPU %d" % (len(placement["dla"]), len(placement["gpu"])), file=sys.stderr)
    sparse = built.facts.get("sparse") or {}
    if sparse.get("eligible"):
        print(
            "  2:4 weights: %d layers, %d of them on sparse kernels (for the others dense ones are faster)"
            % (len(sparse["eligible"]), len(sparse["picked"])),
            file=sys.stderr,
        )
    if built.facts.get("skipped_tactics"):
        print(
            "  %d ways to compute were passed over for want of memory" % built.facts["skipped_tactics"], file=sys.stderr
        )
    return built


def by_layer(folder, about, args):
    """{role: [[name, kind, ms] or, with a fused layer's nodes, [name, kind, ms, nodes], …]}; None where it is not told."""
    import engines

    if not hasattr(engines.BACKENDS[args.backend or about["backend"]], "layers"):
        return None
    try:
        return {role: engine(folder, role, about, args, layers=True).layers(8) for role in ROLES}
    except (RuntimeError, ValueError) as error:
        print("no times by layer: %s" % error, file=sys.stderr)
        return None


def engine(folder, role, about, args, **more):
    """The engine as the bundle and the options ask for it; kept in engines/."""
    import engines

    return engines.BACKENDS[args.backend or about["backend"]](
        os.path.join(folder, role + ".onnx"), args.precision or about["precision"], None, args.device or about["device"],
        threads_of(args, about), home=manifest.engines_home(folder, args.signers), dla=args.dla, workspace_mb=args.workspace_mb, **more
    )  # fmt: skip


def threads_of(args, about):
    """Of a CPU engine; 0: the backend decides."""
    return about["threads"] if args.threads is None else args.threads


def open_bytes(path):
    with open(path, "rb") as handle:
        return handle.read()


def fresh(path):
    """A new file, never one that a link points to."""
    if os.path.lexists(path):
        os.unlink(path)
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644), "w+b")


def write(out, result, answers):
    """result.json for people, and beside it result.zip with the engine's answers for `edgeprune verify`."""
    import numpy as np

    text = json.dumps(result, indent=1)
    with fresh(out + ".part") as handle:
        handle.write(text.encode())
    os.replace(out + ".part", out)
    whole = os.path.splitext(out)[0] + ".zip"
    with fresh(whole + ".part") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as handle:
        handle.writestr("result.json", text)
        with handle.open("answers.npy", "w") as array:
            np.lib.format.write_array(array, np.ascontiguousarray(answers), allow_pickle=False)
    os.replace(whole + ".part", whole)


def report(result, out):
    """Print it; gives the exit status."""
    import score

    print(
        "%s@%s  %s, asked %s, found %s"
        % (result["recipe"], result["target"], result["backend"], result["precision_asked"], result["precision_found"])
    )
    device, task = result["device"], score.TASKS[result["task"]]
    print("%s, L4T %s, power mode %s" % (device["board"] or device["cpu"], device["l4t"], device["power_mode"]))
    if task.judge:
        told = (100 * result["pytorch"][task.key], 100 * result["engine"][task.key])
        print("%s on %d images: PyTorch %.2f, engine %.2f" % ((task.name, result["images"]) + told))
    print("%s on %d images: %.4f" % (task.agreement.replace("_", " "), result["images"], result[task.agreement]))
    print(
        "latency p50 %s: dense %.2f ms, pruned %.2f ms; speed-up %.2f [%.2f, %.2f]"
        % (
            result["latency"]["boundary"],
            result["dense_latency"]["p50"],
            result["latency"]["p50"],
            result["speedup"]["median"],
            *result["speedup"]["ci95"],
        )
    )
    told = result["boundaries"].get("pruned", {"boundaries": {}, "during": {"throttled": []}})
    for name, row in told["boundaries"].items():
        print(
            "  pruned, %-14s p50 %8.3f ms, p99 %8.3f  %s" % (name, row["p50"], row["p99"], "; ".join(row["warnings"]))
        )
    for reason in result["during"]["throttled"] + told["during"]["throttled"]:
        print("  NOT TO BE TRUSTED: %s" % reason)
    for gate in result["gates"]:
        print(
            "  %s %-16s limit %s, value %s"
            % ("ok  " if gate["passed"] else "FAIL", gate["name"], gate["limit"], gate["value"])
        )
    if result["not_judged"]:
        print("  not judged here: %s" % ", ".join(result["not_judged"]))
    print("written: %s and %s.zip" % (out, os.path.splitext(out)[0]))
    return 0 if all(gate["passed"] for gate in result["gates"]) else 3


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--backend", choices=("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"), help="default: the bundle's"
    )
    parser.add_argument("--precision", choices=["f32", "f16", "bf16", "int8"], help="default: the bundle's")
    parser.add_argument("--device", help="the backend's name of the device; default: the bundle's")
    parser.add_argument("--threads", type=int, help="of a CPU engine; 0: the backend decides; default: the bundle's")
    parser.add_argument("--runs", type=int, help="timed pairs; default: the bundle's")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each boundary; 0: pairs only")
    parser.add_argument("--fps", type=float, default=30.0, help="images a second of the paced run")
    parser.add_argument(
        "--dla", type=int, help="build for this core of the deep learning accelerator; default: the GPU alone"
    )
    parser.add_argument("--workspace-mb", type=int, help="the builder's memory; default: half of what is free")
    parser.add_argument("--lock-clocks", action="store_true", help="by jetson_clocks, for the measurement only")
    parser.add_argument("--signers", help="file of allowed signers; a bundle that none of them signed is refused")
    parser.add_argument("--signer", help="the name in that file that must have signed")
    parser.add_argument("--wait", type=float, default=600, help="seconds to wait for another measurement to end")
    parser.add_argument("--out", default=os.path.join(HERE, "result.json"), help="where the result goes")
    parser.add_argument("--debug", action="store_true", help="show the trace of an error")
    args = parser.parse_args(argv)
    try:
        return check(HERE, args)
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
