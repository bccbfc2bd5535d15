"""The backends on the device: TensorRT (through its Python module and libcudart by ctypes), OpenVINO, ONNX Runtime.

The TensorRT part is written against the documented interface of TensorRT 10 and has not run on hardware yet.
"""

import ctypes
import ctypes.util
import functools
import time

import numpy as np


class OnnxRuntime:
    """The graph in f32 on the CPU: a check of the graph, not of the device."""

    def __init__(self, path, precision, calibration=None, device="CPU", threads=0):
        import onnxruntime as ort

        if precision != "f32":
            raise ValueError("ONNX Runtime runs f32 here; add --precision f32")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.backend, self.precision = "onnxruntime " + ort.__version__, "f32"
        self.name = self.session.get_inputs()[0].name

    def predict(self, image):
        return self.session.run(None, {self.name: image})[0]

    def bind(self, image):
        return lambda: self.session.run(None, {self.name: image})


@functools.lru_cache(maxsize=None)
def core():
    """One Core, kept until the end: where several come and go, OpenVINO leaves a freed signal stack (Ctrl-C then kills)."""
    import openvino as ov

    return ov.Core()


def find(device):
    """Raises RuntimeError if OpenVINO has no such device here."""
    found = core().available_devices
    if not any(name.split(".")[0] == device for name in found):
        raise RuntimeError("OpenVINO finds no %s here, only %s" % (device, ", ".join(found)))


class OpenVINO:
    """An engine for an Intel CPU, GPU or NPU."""

    def __init__(self, path, precision, calibration=None, device="CPU", threads=0, layers=False):
        import openvino as ov

        if precision == "int8" and not path.endswith(".xml"):
            raise ValueError("INT8 for OpenVINO is quantised on the host, not here; use --precision f32 or f16")
        settings = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"}
        if device != "NPU":
            settings["INFERENCE_PRECISION_HINT"] = "f32" if precision == "int8" else precision
        if device == "CPU":
            settings["CPU_DENORMALS_OPTIMIZATION"] = True
            if threads:
                settings["INFERENCE_NUM_THREADS"] = threads
        if layers:
            settings["PERF_COUNT"] = True
        find(device)
        self.compiled = core().compile_model(path, device, settings)
        self.request = self.compiled.create_infer_request()
        self.backend = "openvino %s" % ov.__version__.split("-")[0]
        self.precision = self._found()

    def layers(self, runs, warm=2):
        """[name, kind, milliseconds] of every operator, on noise; the lower quartile over at least `runs` runs."""
        rng = np.random.RandomState(0)
        for port in self.compiled.inputs:
            kind = port.element_type.to_dtype()
            whole = np.issubdtype(kind, np.integer)
            data = rng.randint(0, 256, list(port.shape)) if whole else rng.randn(*port.shape)
            self.request.get_tensor(port).data[:] = data.astype(kind)
        times, rows, began = [], [], time.perf_counter()
        while len(times) < runs or (time.perf_counter() - began < 0.35 and len(times) < 400):
            self.request.infer()
            if warm > 0 or time.perf_counter() - began < 0.1:
                warm -= 1
                continue
            rows = self.request.get_profiling_info()
            times.append([row.real_time.total_seconds() * 1000 for row in rows])
        names = [row.node_name for row in rows]
        names = [n[: -len("/WithoutBiases")] if n.endswith("/WithoutBiases") else n for n in names]
        return [[n, r.node_type, float(ms)] for n, r, ms in zip(names, rows, np.percentile(times, 25, axis=0))]

    def _found(self):
        """What most convolutions run at, as the compiled graph says."""
        names = []
        for node in self.compiled.get_runtime_model().get_ops():
            info = node.get_rt_info()
            if "layerType" in info and info["layerType"].astype(str).startswith("Convolution"):
                names.append(info["runtimePrecision"].astype(str).lower())
        most = max(set(names), key=names.count) if names else "unknown"
        return "int8" if most in ("u8", "i8") else most

    def predict(self, image):
        return np.array(self.request.infer({0: image})[self.compiled.output(0)])

    def bind(self, image):
        import openvino as ov

        self.image = np.array(image, order="C")  # shared with OpenVINO, so it must live as long as the engine
        self.request.set_input_tensor(ov.Tensor(self.image, shared_memory=True))
        return self.request.infer


class TensorRT:
    """An engine built here. Time is taken from host memory to host memory."""

    module = "tensorrt"

    def __init__(self, path, precision, calibration=None, device="GPU", threads=0):
        trt = self.trt = __import__(self.module)
        self.version = tuple(int(v) for v in trt.__version__.split(".")[:2])
        self.logger = trt.Logger(trt.Logger.WARNING)
        trt.init_libnvinfer_plugins(self.logger, "") if hasattr(trt, "init_libnvinfer_plugins") else None
        plan = self._build(path, precision, calibration)
        self.engine = trt.Runtime(self.logger).deserialize_cuda_engine(plan)
        if self.engine is None:
            raise RuntimeError("TensorRT cannot load the engine that it built")
        self.context = self.engine.create_execution_context()
        self.backend = "%s %s" % (self.module, trt.__version__)
        self.precision = "not read back (asked %s)" % precision
        self.cuda = Cuda()
        self._buffers()

    def _build(self, path, precision, calibration):
        trt = self.trt
        builder = trt.Builder(self.logger)
        flags = 0
        if self.version < (10, 0):
            flags |= 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
        network = builder.create_network(flags)
        parser = trt.OnnxParser(network, self.logger)
        if not parser.parse_from_file(path):
            faults = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
            raise RuntimeError("TensorRT cannot read %s: %s" % (path, faults))
        config = builder.create_builder_config()
        if precision == "int8":
            raise ValueError("INT8 on TensorRT wants a graph with Q/DQ nodes, which this bundle does not hold; use f16")
        if precision == "f32":
            config.clear_flag(trt.BuilderFlag.TF32)  # on by default, and no f32
        if precision == "f16":
            if not hasattr(trt.BuilderFlag, "FP16"):
                raise ValueError(
                    "TensorRT %s is strongly typed: f16 wants an f16 graph; use --precision f32" % trt.__version__
                )
            config.set_flag(trt.BuilderFlag.FP16)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise RuntimeError("TensorRT cannot build an engine of %s; see its messages above" % path)
        return plan

    def _buffers(self):
        """Host arrays and device addresses of the input and the output."""
        trt, self.host, self.device = self.trt, {}, {}
        for i in range(self.engine.num_io_tensors):
            name = self.engine.get_tensor_name(i)
            array = np.zeros(tuple(self.engine.get_tensor_shape(name)), trt.nptype(self.engine.get_tensor_dtype(name)))
            self.host[name], self.device[name] = array, self.cuda.allocate(array.nbytes)
            self.context.set_tensor_address(name, self.device[name])
        self.inputs = [n for n in self.host if self.engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        self.output = next(n for n in self.host if n not in self.inputs)  # the first: classes, logits or heads

    def _run(self):
        name = self.inputs[0]
        self.cuda.to_device(self.device[name], self.host[name])
        if not self.context.execute_async_v3(self.cuda.stream):
            raise RuntimeError("TensorRT did not run the engine")
        self.cuda.to_host(self.host[self.output], self.device[self.output])
        self.cuda.wait()

    def predict(self, image):
        self.host[self.inputs[0]][...] = image
        self._run()
        return self.host[self.output].copy()

    def bind(self, image):
        self.host[self.inputs[0]][...] = image
        return self._run


class TensorRTRTX(TensorRT):
    """TensorRT for RTX: the same interface under another name."""

    module = "tensorrt_rtx"


class Cuda:
    """The five calls of the CUDA runtime that are needed, so that no other package is."""

    def __init__(self):
        names = [
            ctypes.util.find_library("cudart"),
            "libcudart.so",
            "libcudart.so.13",
            "libcudart.so.12",
            "libcudart.so.11.0",
        ]
        for name in filter(None, names):
            try:
                self.lib = ctypes.CDLL(name)
                break
            except OSError:
                continue
        else:
            raise RuntimeError("libcudart is not found; is CUDA installed and on the library path?")
        stream = ctypes.c_void_p()
        self._do("cudaStreamCreate", ctypes.byref(stream))
        self.stream = stream.value

    def _do(self, name, *args):
        status = getattr(self.lib, name)(*args)
        if status:
            raise RuntimeError("%s failed with CUDA error %d" % (name, status))

    def allocate(self, size):
        address = ctypes.c_void_p()
        self._do("cudaMalloc", ctypes.byref(address), ctypes.c_size_t(size))
        return address.value

    def _copy(self, to, source, size, kind):
        self._do(
            "cudaMemcpyAsync", ctypes.c_void_p(to), ctypes.c_void_p(source), ctypes.c_size_t(size), kind,
            ctypes.c_void_p(self.stream),
        )  # fmt: skip

    def to_device(self, address, array):
        self._copy(address, array.ctypes.data, array.nbytes, 1)

    def to_host(self, array, address):
        self._copy(array.ctypes.data, address, array.nbytes, 2)

    def wait(self):
        self._do("cudaStreamSynchronize", ctypes.c_void_p(self.stream))


def version(backend, device):
    """The backend's name and version, once it is sure that the device is there."""
    if backend == "openvino":
        import openvino as ov

        find(device)
        return "openvino %s" % ov.__version__.split("-")[0]
    return "%s %s" % (backend, __import__(backend).__version__)


BACKENDS = {"tensorrt": TensorRT, "tensorrt_rtx": TensorRTRTX, "openvino": OpenVINO, "onnxruntime": OnnxRuntime}
