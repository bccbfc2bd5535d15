"""TensorRT 8.5 (builder flags), 10 and 11 (types of the graph): build an engine, read back what it is, run it.

What a version can do is asked of its module, not of its number: TensorRT 11 has no BuilderFlag.FP16, TensorRT 8 no
STRONGLY_TYPED. The parser and builder interfaces of 8.5.3, 8.6.1, 10.3.0, 10.13.3 and 11.4.0 are what the tests check
against; no engine has run on a Jetson yet. TensorRT for RTX has the same interface under another name.
"""

import importlib
import importlib.util
import os
import sys

import board
import identity
import layers
import measuring
import numpy as np
import score
import trt_build
from cuda_runtime import Cuda

SHARE_OF_MEMORY = 0.5  # of what is free, for the builder's workspace; the rest of a shared memory is the system's

NUMPY = {
    "FLOAT": np.float32, "HALF": np.float16, "INT8": np.int8, "INT32": np.int32, "INT64": np.int64, "UINT8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip


def numpy_type(trt, kind):
    """numpy's type of a tensor's. Not by trt.nptype: that of TensorRT 8.5 asks numpy for np.bool, which 1.24 has not."""
    return NUMPY[kind.name] if kind.name in NUMPY else trt.nptype(kind)


class TensorRT:
    """An engine for this GPU. See `engines` for what every backend's class offers.

    Args:
        path: the f32 graph. Its types at another precision lie beside it: NAME.f16.onnx, NAME.int8.onnx (and
            NAME.int8.flags.onnx, Q/DQ in f32, for a builder that has flags). An engine of
            torch-tensorrt's beside it (NAME.f16.engine) is taken as built: float32 images in, int32 classes out.
        home: folder for the engine; None: nothing is kept. timings: folder for the timing cache; None: `home`.
        dla: core of the deep learning accelerator to build for; None: the GPU alone.
        workspace_mb: the builder's memory; None: half of what is free, of the GPU's own or of what it shares with the board.

    Raises:
        RuntimeError, ValueError: one line.
    """

    module = "tensorrt"

    def __init__(
        self, path, precision, calibration=None, device="GPU", threads=0, home=None, dla=None, workspace_mb=None,
        timings=None, **unused,
    ):  # fmt: skip
        trt = self.trt = load(self.module)
        self.log = []
        self.logger = logger(trt, self.log)
        if hasattr(trt, "init_libnvinfer_plugins"):
            trt.init_libnvinfer_plugins(self.logger, "")
        self.cuda = Cuda()
        graph, way = trt_build.route(trt, path, precision)
        machine = board.fingerprint()
        gpu = self.cuda.device()
        free = machine["memory_mb"]["free"] if gpu["integrated"] else self.cuda.free_mb()
        size = workspace_mb or (int(free * SHARE_OF_MEMORY) if free else None)
        settings = {
            "route": way, "level": trt_build.LEVEL, "dla": dla, "workspace_mb": workspace_mb or "half of what is free", "tf32": False,
        }  # fmt: skip
        self.backend = "%s %s" % (self.module, trt.__version__)
        now = identity.key(graph, self.backend, precision, gpu, machine, settings)
        name, timings = os.path.basename(path)[: -len(".onnx")], timings or home
        self.kept = kept = os.path.join(home, "%s.%s.plan" % (name, precision)) if home else None
        plan, facts, reason = identity.read(kept, now) if kept else (None, None, "nothing is kept")
        self.built = plan is None
        if plan is None:
            self.why_built = reason
            cache = os.path.join(timings, "timing.%s.cache" % slug(self.backend, now["gpu"]["cc"])) if timings else None
            plan, facts = self._plan(graph, precision, way, size, dla, cache)
            whose = "the board's" if gpu["integrated"] else "the GPU's own"
            facts.update(workspace_mb=size, free_mb=free, memory=whose, **trt_build.reading_of_log(self.log, dla))
        runtime = trt.Runtime(self.logger)
        if dla is not None:
            runtime.DLA_core = dla
        self.engine = runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            whose = (
                "torch-tensorrt's engine, which another TensorRT has built"
                if way == trt_build.GIVEN
                else "the engine that it built"
            )
            raise RuntimeError("%s cannot load %s%s" % (self.backend, whose, trt_build.last_word(self.log)))
        self.rows = trt_build.inspected(trt, self.engine)
        self.facts = dict(facts, key=now, **trt_build.types(self.rows))
        layers.refuse(precision, self.facts["convolutions"])
        self.precision = self.facts["precision"]
        if way == trt_build.GIVEN and self.precision == "unknown":
            raise RuntimeError("torch-tensorrt's engine does not tell at which types it runs; use deploy.route=onnx")
        if kept and self.built:
            os.makedirs(home, exist_ok=True)
            identity.write(bytes(plan), kept, now, facts)
        self.context = self._prepared()
        if self.context is None:
            raise RuntimeError("TensorRT cannot prepare the engine to run%s" % trt_build.last_word(self.log))
        self._annotate("NONE")
        self._buffers()

    def _plan(self, graph, precision, way, size, dla, cache):
        if way == trt_build.GIVEN:
            with open(graph, "rb") as handle:
                plan = handle.read()
            return plan, {"route": way, "bytes": len(plan)}
        return trt_build.build(self.trt, self.logger, graph, precision, way, size, dla, cache)

    def _prepared(self):
        """The context that runs the engine."""
        return self.engine.create_execution_context()

    def _annotate(self, level):
        """How much NVTX tells of every run: an engine that is built DETAILED, for the inspector, takes longer to enqueue else."""
        if hasattr(self.context, "nvtx_verbosity"):
            self.context.nvtx_verbosity = getattr(self.trt.ProfilingVerbosity, level)

    def _buffers(self):
        """Page-locked host arrays and device addresses of every input and output."""
        trt, self.host, self.address = self.trt, {}, {}
        for i in range(self.engine.num_io_tensors):
            name = self.engine.get_tensor_name(i)
            shape, kind = tuple(self.engine.get_tensor_shape(name)), numpy_type(trt, self.engine.get_tensor_dtype(name))
            self.host[name] = self.cuda.pinned(shape, kind)
            self.address[name] = self.cuda.allocate(self.host[name].nbytes)
            if not self.context.set_tensor_address(name, self.address[name]):
                raise RuntimeError("TensorRT does not take an address for %s" % name)
        self.input = next(n for n in self.host if self.engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT)
        others = [n for n in self.host if n != self.input]
        self.held = next((n for n in score.ANSWERS if n in others), others[0])  # logits may stand behind the classes
        self.output = self.held if self.facts["route"] != trt_build.GIVEN else called(self.host[self.held])
        self.events = (self.cuda.event(), self.cuda.event())

    def _enqueue(self):
        if not self.context.execute_async_v3(self.cuda.stream):
            raise RuntimeError("TensorRT did not run the engine%s" % trt_build.last_word(self.log))

    def _copied(self):
        self.cuda.to_device(self.address[self.input], self.host[self.input])
        self._enqueue()
        self.cuda.to_host(self.host[self.held], self.address[self.held])
        self.cuda.wait()

    def _alone(self):
        """Milliseconds of the device for the engine alone, inputs and outputs in place."""
        self.cuda.record(self.events[0])
        self._enqueue()
        self.cuda.record(self.events[1])
        return self.cuda.between(*self.events)

    def layers(self, runs, warm=2):
        """[name, kind, milliseconds, [ONNX nodes]] of every layer, on noise; the engine is profiled, and slower, from then on."""
        if not hasattr(self.trt, "IProfiler"):
            raise RuntimeError("TensorRT %s tells no times by layer: it has no IProfiler" % self.trt.__version__)
        rng, told = np.random.RandomState(0), profiler(self.trt)
        for name, held in self.host.items():
            if self.engine.get_tensor_mode(name) == self.trt.TensorIOMode.INPUT:
                held[...] = measuring.noise(rng, held.shape, held.dtype)
                self.cuda.to_device(self.address[name], held)
        self._annotate("DETAILED")  # or the layers' names may be mere numbers
        self.context.profiler = self.profiler = (
            told  # a run tells its times at its end: enqueue_emits_profile is on by default
        )

        def run():
            del told.rows[:]
            self._enqueue()
            self.cuda.wait()
            if not told.rows:
                raise RuntimeError("TensorRT has told no times by layer")
            return list(told.rows)

        return layers.timed(self.rows, measuring.by_layer(run, runs, warm))

    def predict(self, image):
        self.host[self.input][...] = image
        self._copied()
        answer = self.host[self.held]
        return answer.astype(np.uint8) if answer.dtype == np.int32 else answer.copy()

    def bind(self, image):
        return lambda: self.predict(image)

    def boundaries(self, image):
        self.predict(image)
        return {"engine": self._alone, "with copies": self._copied, score.whole(self.output): self.bind(image)}


class TensorRTRTX(TensorRT):
    """TensorRT for RTX: the same interface under another name. It knows no flags, only the types of the graph.

    It compiles its kernels at the first run; they are kept beside the engine (NAME.PRECISION.kernels).
    """

    module = "tensorrt_rtx"

    def __init__(self, *args, **more):
        TensorRT.__init__(self, *args, **more)
        if self.facts.get("kernels") != "compiled here":
            return
        self._copied()
        os.makedirs(os.path.dirname(self.kernels), exist_ok=True)
        with open(self.kernels + ".part", "wb") as handle:
            handle.write(bytes(self.cache.serialize()))
        os.replace(self.kernels + ".part", self.kernels)

    def _prepared(self):
        """No CUDA graph, which is the default, as with every other TensorRT: see `measuring.SETTINGS`."""
        config = self.engine.create_runtime_config()
        self.kernels = self.kept and self.kept[: -len(".plan")] + ".kernels"
        if self.kernels:
            self.cache, taken = config.create_runtime_cache(), False
            if os.path.exists(self.kernels):
                with open(self.kernels, "rb") as handle:
                    taken = self.cache.deserialize(handle.read())  # of another GPU or version it takes none
            config.set_runtime_cache(self.cache)
            self.facts["kernels"] = "kept" if taken else "compiled here"
        return self.engine.create_execution_context(runtime_config=config)

    def _plan(self, graph, precision, way, size, dla, cache):
        """The engine that was built ahead and lies beside its graph, if this GPU and version take it; else one built here."""
        ahead = "%s.rtx" % graph[: -len(".onnx")]
        if os.path.exists(ahead):
            with open(ahead, "rb") as handle:
                plan = handle.read()
            if self.trt.Runtime(self.logger).deserialize_cuda_engine(plan) is not None:
                return plan, {"route": "built ahead", "bytes": len(plan)}
            print("%s does not fit this GPU or %s; built anew here" % (ahead, self.backend), file=sys.stderr)
        return TensorRT._plan(self, graph, precision, way, size, dla, cache)


def load(module):
    """Import the bindings, also where only NAME_bindings is installed; a missing one is told with what to do."""
    try:
        found = importlib.util.find_spec(module) or not importlib.util.find_spec(module + "_bindings")
        return importlib.import_module(module if found else module + "_bindings")
    except ImportError as error:
        why = "its Python module is not found" if "No module named '%s'" % module in str(error) else str(error)
        raise RuntimeError(
            "%s: %s. JetPack brings it for the system's python3 (sudo apt install python3-libnvinfer), and a virtual environment "
            "sees it with --system-site-packages; elsewhere: pip install tensorrt" % (module, why)
        ) from error


def logger(trt, kept):
    """A logger that prints warnings and errors and keeps every message in the list `kept`."""

    class Log(trt.ILogger):
        def __init__(self):
            trt.ILogger.__init__(self)
            self.kept = kept

        def log(self, severity, message):
            kept.append(message)
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR, trt.ILogger.WARNING):
                print("[TensorRT] %s" % message, file=sys.stderr)

    return Log()


def profiler(trt):
    """A profiler that keeps what it is told, (layer's name, milliseconds), in the list `rows`."""

    class Profiler(trt.IProfiler):
        def __init__(self):
            trt.IProfiler.__init__(self)
            self.rows = []

        def report_layer_time(self, layer_name, ms):
            self.rows.append((layer_name, float(ms)))

    return Profiler()


def slug(*parts):
    return "-".join("".join(c if c.isalnum() or c == "." else "_" for c in part) for part in parts)


def called(answer):
    """An answer's name in the graphs that ship; torch-tensorrt only numbers its outputs."""
    return "classes" if answer.dtype == np.int32 else "logits" if answer.ndim == 2 else "heads"
