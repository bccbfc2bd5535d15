"""What is missing on this board before an engine can be built, measured and checked, in plain words. stdlib only.

    python3 doctor.py [--backend tensorrt] [--json]

Each finding is {"level": "ok" | "note" | "missing", "what", "todo"}. Nothing is changed. Exit status: 0 nothing is missing, 1 else.
"""

import sys

if __name__ == "__main__":  # before any other import: what lies here may have the name of any of Python's own modules
    with open((__file__.rpartition("/")[0] or ".") + "/isolate.py", "rb") as isolate:
        exec(compile(isolate.read(), isolate.name, "exec"), {"__file__": isolate.name, "__name__": "isolate"})

import argparse
import importlib
import importlib.util
import json
import os
import platform
import shutil

import board
import jetpack

FREE_MB, DISK_MB = 2000, 2000  # below these, builds are known to fail or to lose tactics
GPU_BACKENDS = ("tensorrt", "tensorrt_rtx")


def ok(what):
    return {"level": "ok", "what": what, "todo": ""}


def note(what, todo=""):
    return {"level": "note", "what": what, "todo": todo}


def missing(what, todo):
    return {"level": "missing", "what": what, "todo": todo}


def findings(backend="tensorrt", device="GPU", root=None):
    """All of them, the most basic first."""
    told = python() + numpy()
    l4t = board.l4t(board.read("/etc/nv_tegra_release", root))
    if backend == "tensorrt":
        told += system(l4t, root)
    told += [*runtime(backend, device, l4t, root)]
    if backend in GPU_BACKENDS:
        told += cuda(root)
    if l4t:
        told += power(root) + tools()
    return told + room(root)


def python():
    version = platform.python_version()
    if sys.version_info < (3, 8):
        return [
            missing("Python %s is too old" % version, "Python 3.8 or later; JetPack 4 brings 3.6, so update JetPack")
        ]
    return [ok("Python %s" % version)]


def numpy():
    if importlib.util.find_spec("numpy") is None:
        return [missing("numpy is not installed", "sudo apt install python3-numpy")]
    return [ok("numpy %s" % importlib.import_module("numpy").__version__)]


def system(l4t, root=None):
    """Board, L4T and what they mean."""
    name = board.read("/proc/device-tree/model", root)
    if l4t is None:
        return [
            note(
                "this is no Jetson: there is no /etc/nv_tegra_release (%s, %s)"
                % (name or "no board name", platform.machine()),
                "in a container, mount the board's and set EDGEPRUNE_ROOT; on a desktop GPU, measurements are as good",
            )
        ]
    told = [ok("%s (%s), L4T %s" % (name or "a board without a name", board.module(root) or "module unknown", l4t))]
    release = jetpack.release_of(l4t)
    if release is None:
        return [*told, note("L4T %s is not in the table of JetPacks; nothing is assumed of it" % l4t)]
    ships = release.tensorrt or "of an unknown version"
    told.append(
        ok("JetPack %s: CUDA %s, TensorRT %s, Python %s" % (release.jetpack, release.cuda, ships, release.python))
    )
    if not any(part in (name or "") for part in release.boards) and name:
        told.append(
            note(
                "JetPack %s is for %s; the board calls itself %s"
                % (release.jetpack, " and ".join(release.boards), name)
            )
        )
    if release.opset:
        told.append(
            note("its parser promises ONNX operators up to opset %d; graphs here are of opset 18 or later" % release.opset,
                 "try the bundle: most read all the same, and one that would be misread is refused; JetPack 6.1 reads later ones")
        )  # fmt: skip
    return told


def runtime(backend, device, l4t, root=None):
    """The backend's Python module, and how it takes precision."""
    if backend == "openvino" or backend == "onnxruntime":
        if importlib.util.find_spec(backend) is None:
            return [missing("%s is not installed" % backend, "python3 -m pip install %s" % backend)]
        import engines

        try:
            return [ok("%s with a %s" % (engines.version(backend, device)[0], device))]
        except RuntimeError as error:
            return [missing(str(error), "see the runtime's own guide to its drivers")]
    name = next((n for n in (backend, backend + "_bindings") if importlib.util.find_spec(n)), None)
    if name is None:
        return [missing(*_no_tensorrt(backend, root))]
    try:
        trt = importlib.import_module(name)
    except Exception as error:
        return [missing("%s is installed but does not import: %s" % (name, str(error).splitlines()[0]),
                        "its libraries are of another version or not on the library path")]  # fmt: skip
    flags, typed = hasattr(trt.BuilderFlag, "FP16"), hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
    how = " and ".join(filter(None, ("builder flags" if flags else "", "the types of the graph" if typed else "")))
    told = [ok("%s %s, which takes precision by %s" % (backend, trt.__version__, how or "nothing known here"))]
    release = jetpack.release_of(l4t)
    if (
        release
        and release.tensorrt
        and not trt.__version__.startswith(release.tensorrt.split(" ")[0].rsplit(".", 1)[0])
    ):
        told.append(note("JetPack %s ships TensorRT %s; this is another one" % (release.jetpack, release.tensorrt)))
    return told + [note(fault) for fault in (jetpack.faults(trt.__version__, l4t) if backend == "tensorrt" else [])]


def _no_tensorrt(backend, root=None):
    if backend == "tensorrt_rtx":
        return "TensorRT for RTX is not installed", "python3 -m pip install tensorrt-rtx-cu13"
    if board.found("/usr/lib/*/libnvinfer.so.*", root):
        inside = sys.prefix != sys.base_prefix
        if inside:
            return (
                "TensorRT is installed, but this virtual environment does not see its Python module",
                "make it again with: python3 -m venv --system-site-packages, or use the system's python3",
            )
        return "TensorRT's libraries are here, its Python module is not", "sudo apt install python3-libnvinfer"
    return (
        "TensorRT is not installed",
        "sudo apt install nvidia-jetpack (on a Jetson); pip install tensorrt (on a desktop)",
    )


def cuda(root=None):
    try:
        import cuda_runtime

        gpu = cuda_runtime.Cuda().device()
    except RuntimeError as error:
        return [missing("CUDA does not run: %s" % error, _why_no_cuda(root))]
    except ImportError as error:
        return [missing("CUDA cannot be asked: %s" % error, "install numpy first")]
    return [ok("a GPU of compute capability %s with %d multiprocessors" % (gpu["cc"], gpu["multiprocessors"]))]


def _why_no_cuda(root=None):
    if board.read("/.dockerenv", root) is not None:
        return "this is a container: start it with --runtime nvidia"
    if board.found("/dev/nvmap", root) and not os.access("/dev/nvmap", os.R_OK | os.W_OK):
        return "this user may not use the GPU: sudo usermod -aG video,render $USER, then log in again"
    return (
        "install CUDA (on a Jetson: sudo apt install nvidia-jetpack) and put /usr/local/cuda/lib64 on LD_LIBRARY_PATH"
    )


def power(root=None):
    """The power mode by its name, and the clocks."""
    mode, modes = board.power_mode(root), board.power_modes(board.read("/etc/nvpmodel.conf", root))
    told = []
    if mode is None:
        told.append(note("the power mode is not known: nvpmodel does not answer", "a latency without it means little"))
    else:
        others = ", ".join("%s (id %d)" % (name, number) for number, name in sorted(modes.items())) or "not told"
        told.append(ok("power mode %s; this board has %s" % (mode, others)))
        if modes and not mode.startswith("MAXN") and any(name.startswith("MAXN") for name in modes.values()):
            told.append(note("the board runs in %s, not at its most" % mode,
                             "if that is not what will ship: sudo nvpmodel -m ID; it may ask to reboot"))  # fmt: skip
    locked, clock = board.clocks_locked(root), board.gpu_clock(root)
    if locked is False:
        told.append(note("the GPU's clock moves between %.0f and %.0f MHz" % (clock["least"], clock["most"]),
                         "for steady numbers: --lock-clocks (restored afterwards)"))  # fmt: skip
    heat = board.hottest(root)
    if heat is not None and heat > 80:
        told.append(
            note(
                "it is %.0f degrees hot and may slow down" % heat, "let it cool; see cool_below_c in the target's file"
            )
        )
    raised = {name: count for name, count in board.throttling(root).items() if count}
    if raised:
        said = ", ".join("%s %d" % pair for pair in sorted(raised.items()))
        told.append(note("the supply has been too weak since the start (%s events)" % said, "check the power adapter"))
    return told


def tools():
    told = [note("%s is not on the PATH" % n, "sudo apt install nvidia-l4t-tools") for n in ("tegrastats", "nvpmodel")
            if not shutil.which(n)]  # fmt: skip
    if not shutil.which("jetson_clocks"):
        told.append(note("jetson_clocks is not on the PATH", "--lock-clocks will not work"))
    return told


def room(root=None):
    """Memory and disk."""
    memory, told = board.memory(root), []
    if memory["free"] is not None:
        text = "%d MB of %d MB memory free, %d MB swap" % (memory["free"], memory["total"], memory["swap"] or 0)
        low = memory["free"] < FREE_MB
        told.append(
            note(text, "builds may fail or choose slower kernels: close the desktop (sudo systemctl isolate multi-user), add swap")
            if low else ok(text)
        )  # fmt: skip
    free = shutil.disk_usage(os.path.expanduser("~")).free >> 20
    text = "%d MB of disk free in the home folder" % free
    return [*told, missing(text, "free at least %d MB" % DISK_MB) if free < DISK_MB else ok(text)]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--backend", default="tensorrt", choices=("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx")
    )
    parser.add_argument("--device", default="GPU", help="the backend's name of the device")
    parser.add_argument("--json", action="store_true", help="for programs")
    args = parser.parse_args(argv)
    told = findings(args.backend, args.device)
    if args.json:
        print(json.dumps({"findings": told, "fingerprint": board.fingerprint()}))
    else:
        for one in told:
            print("%-8s %s%s" % (one["level"], one["what"], "\n         -> " + one["todo"] if one["todo"] else ""))
    return 1 if any(one["level"] == "missing" for one in told) else 0


if __name__ == "__main__":
    sys.exit(main())
