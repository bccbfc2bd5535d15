"""TensorRT and CUDA without a GPU: what the real bindings of a version have, and no more, around ONNX Runtime.

`recorded/tensorrt-*.json` were read off the real Python modules (the wheels of 8.5.3, 8.6.1, 10.3.0, 10.13.3 and 11.4.0, and of
TensorRT for RTX 1.7.1, for x86-64, imported without a GPU): classes, methods with their arguments' names, properties, members of
enumerations. A name that a version has not is an AttributeError here as there, a wrong argument a TypeError.
"""

import ctypes
import enum
import json
import time
import types
from pathlib import Path

import numpy as np

RECORDED = Path(__file__).parent / "recorded"
FLAGS_ONLY = ["8.5.3.1", "8.6.1"]
VERSIONS = ["8.5.3.1", "8.6.1", "10.3.0", "10.13.3.9", "11.4.0.106"]
RTX = "1.7.1.116"
SEVERITIES = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")


class Fake:
    """What a test sets and reads: `layers` that the inspector tells (none: the graph's convolutions), `times` that the profiler is told (0.25 ms each of them
    else), `log` that the builder writes, `told` what it was told."""

    def __init__(self, version, layers=(), log=(), dla=0, cache_is_taken=True, times=()):
        self.times = list(times)
        self.layers, self.log, self.dla, self.cache_is_taken = list(layers), list(log), dla, cache_is_taken
        self.told, self.builds = [], 0
        self.name = "tensorrt_rtx" if version == RTX else "tensorrt"
        self.module = _module(self, json.loads((RECORDED / f"{self.name}-{version}.json").read_text()))


def _module(fake, recorded):
    module = types.ModuleType(fake.name)
    module.__version__ = recorded["version"]
    for name, entry in recorded["names"].items():
        if "members" in entry:
            setattr(module, name, enum.IntEnum(name, entry["members"]))
        else:
            setattr(module, name, _class(fake, module, name, entry))
    for number, name in enumerate(SEVERITIES):
        setattr(module.ILogger, name, number)
    module.nptype = lambda kind: {"UINT8": np.uint8, "FLOAT": np.float32, "HALF": np.float16, "INT32": np.int32}[
        kind.name
    ]
    module.init_libnvinfer_plugins = lambda logger, namespace: True
    return module


def _class(fake, module, name, entry):
    methods, properties = entry.get("methods", {}), entry.get("properties", {})

    def setter(self, key, value):
        ours = key.startswith("_") or name in ("ILogger", "IProfiler")  # base classes of the user's own
        if not ours and properties.get(key) != "write":
            raise AttributeError(f"{name} of TensorRT {module.__version__} has no {key} to set")
        if not ours:
            fake.told.append((f"{name}.{key}", getattr(value, "name", value)))
        object.__setattr__(self, key, value)

    body = {"__setattr__": setter}
    for method, signatures in methods.items():
        if method != "__init__":
            body[method] = _method(fake, module, name, method, signatures)
    for key in properties:
        behaviour = BEHAVIOUR.get((name, key))
        if behaviour:
            body[key] = property(lambda self, call=behaviour: call(fake, module, self))
        else:
            body[key] = None
    start = BEHAVIOUR.get((name, "__init__"))
    body["__init__"] = lambda self, *args: start(fake, module, self, *args) if start else None
    return type(name, (), body)


def _method(fake, module, name, method, signatures):
    behaviour = BEHAVIOUR.get((name, method))

    def call(self, *args, **named):
        known = [s for s in signatures if named.keys() <= {a.rstrip("=") for a in s}]
        fits = [s for s in known if len([a for a in s if not a.endswith("=")]) <= 1 + len(args) + len(named) <= len(s)]
        if signatures and not fits:
            raise TypeError(
                f"{name}.{method} of TensorRT {module.__version__} takes {signatures}, not {len(args)} arguments"
            )
        fake.told.append(
            (f"{name}.{method}", *(getattr(a, "name", a) for a in args if isinstance(a, (int, str, enum.Enum))))
        )
        return behaviour(fake, module, self, *args) if behaviour else None

    return call


class Plan(bytes):
    nbytes = property(len)


def _parsed(fake, trt, parser, path):
    content = Path(path).read_bytes()
    parser._network._graph = content
    return content[:4] != b"bad "


def _built(fake, trt, builder, network, config):
    fake.builds += 1
    for line in fake.log:
        builder._logger.log(trt.ILogger.INFO, line)
    return Plan(network._graph)


def _made(cls, **held):
    def make(fake, trt, self, *args):
        made = getattr(trt, cls)()
        for key, take in held.items():
            object.__setattr__(made, key, take(self, *args))
        return made

    return make


def _session(engine):
    import onnxruntime as ort

    return ort.InferenceSession(engine._graph, providers=["CPUExecutionProvider"])


def _ran(fake, trt, context, stream):
    session, given = context._session, {}
    for port in session.get_inputs():
        kind = np.dtype(trt.nptype(trt.DataType[KINDS[port.type]]))
        held = (ctypes.c_uint8 * (int(np.prod(port.shape)) * kind.itemsize)).from_address(context._addresses[port.name])
        given[port.name] = np.frombuffer(held, kind).reshape(port.shape)
    for port, made in zip(session.get_outputs(), session.run(None, given), strict=True):
        made = np.ascontiguousarray(made)
        ctypes.memmove(context._addresses[port.name], made.ctypes.data, made.nbytes)
    if context.profiler is not None and context.enqueue_emits_profile is not False:
        for name, ms in fake.times or [(layer["Name"], 0.25) for layer in _layers(fake, context)]:
            context.profiler.report_layer_time(name, ms)
    return True


def _layers(fake, engine):
    """What the test has set; else a fused layer for every convolution, of its filter's type."""
    if fake.layers:
        return fake.layers
    import onnx

    graph = onnx.load_from_string(engine._graph).graph
    convolutions = [n for n in graph.node if n.op_type in ("Conv", "ConvTranspose")]
    types = {i.name: {onnx.TensorProto.FLOAT16: "Half"}.get(i.data_type, "Float") for i in graph.initializer}
    return [
        {"Name": f"{node.name} + PWN({node.name}_relu)", "LayerType": "CaskConvolution", "ParameterType": "Convolution",
         "Inputs": [{"Format/Datatype": types.get(node.input[1], "Int8")}], "Outputs": []}
        for node in convolutions
    ]  # fmt: skip


def _ports(engine):
    session = _session(engine)
    return [*session.get_inputs(), *session.get_outputs()]


KINDS = {"tensor(uint8)": "UINT8", "tensor(float)": "FLOAT", "tensor(float16)": "HALF", "tensor(int32)": "INT32"}
BEHAVIOUR = {
    ("Builder", "__init__"): lambda f, t, s, logger: object.__setattr__(s, "_logger", logger),
    ("Builder", "num_DLA_cores"): lambda f, t, s: f.dla,
    ("Builder", "create_network"): lambda f, t, s, flags=0: t.INetworkDefinition(),
    ("Builder", "create_builder_config"): lambda f, t, s: t.IBuilderConfig(),
    ("Builder", "build_serialized_network"): _built,
    ("OnnxParser", "__init__"): lambda f, t, s, network, logger: object.__setattr__(s, "_network", network),
    ("OnnxParser", "parse_from_file"): _parsed,
    ("OnnxParser", "num_errors"): lambda f, t, s: 1,
    ("OnnxParser", "get_error"): lambda f, t, s, i: "In node 3: no importer for Odd",
    ("IBuilderConfig", "create_timing_cache"): lambda f, t, s, content: (
        f.told.append(("cache", content)),
        t.ITimingCache(),
    )[1],
    ("IBuilderConfig", "set_timing_cache"): lambda f, t, s, cache, mismatch: f.cache_is_taken,
    ("IBuilderConfig", "get_timing_cache"): lambda f, t, s: t.ITimingCache(),
    ("ITimingCache", "serialize"): lambda f, t, s: b"timings",
    ("Runtime", "deserialize_cuda_engine"): _made("ICudaEngine", _graph=lambda s, plan: bytes(plan)),
    ("ICudaEngine", "num_io_tensors"): lambda f, t, s: len(_ports(s)),
    ("ICudaEngine", "get_tensor_name"): lambda f, t, s, i: _ports(s)[i].name,
    ("ICudaEngine", "get_tensor_shape"): lambda f, t, s, n: next(p.shape for p in _ports(s) if p.name == n),
    ("ICudaEngine", "get_tensor_dtype"): lambda f, t, s, n: t.DataType[
        KINDS[next(p.type for p in _ports(s) if p.name == n)]
    ],
    ("ICudaEngine", "get_tensor_mode"): lambda f, t, s, n: t.TensorIOMode[
        "INPUT" if n in {p.name for p in _session(s).get_inputs()} else "OUTPUT"
    ],
    ("ICudaEngine", "create_engine_inspector"): _made("EngineInspector", _graph=lambda s: s._graph),
    ("ICudaEngine", "create_execution_context"): _made(
        "IExecutionContext", _session=lambda s: _session(s), _addresses=lambda s: {}, _graph=lambda s: s._graph
    ),
    ("EngineInspector", "get_engine_information"): lambda f, t, s, form: json.dumps({"Layers": _layers(f, s)}),
    ("ICudaEngine", "create_runtime_config"): lambda f, t, s: t.IRuntimeConfig(),
    ("IRuntimeConfig", "create_runtime_cache"): lambda f, t, s: t.IRuntimeCache(),
    ("IRuntimeCache", "serialize"): lambda f, t, s: b"kernels",
    ("IRuntimeCache", "deserialize"): lambda f, t, s, blob: f.cache_is_taken and blob == b"kernels",
    ("IExecutionContext", "set_tensor_address"): lambda f, t, s, n, a: s._addresses.update({n: a}) is None,
    ("IExecutionContext", "execute_async_v3"): _ran,
}


class FakeCudart:
    """libcudart's functions that are used, on host memory. `flags` are those of the events; what would spin is not there."""

    def __init__(self):
        self.kept, self.clocks, self.flags, self.integrated, self.waited = {}, {}, set(), True, 0

    def _new(self, pointer, size):
        held = ctypes.create_string_buffer(max(1, getattr(size, "value", size)))
        self.kept[ctypes.addressof(held)] = held
        pointer._obj.value = ctypes.addressof(held)
        return 0

    cudaMalloc = cudaMallocHost = _new

    def cudaStreamCreate(self, pointer):
        return self._new(pointer, 8)

    def cudaEventCreateWithFlags(self, pointer, flags):
        self.flags.add(flags.value)
        return self._new(pointer, 8)

    def cudaEventRecord(self, event, stream):
        self.clocks[event.value] = time.perf_counter()
        return 0

    def cudaEventElapsedTime(self, pointer, start, end):
        pointer._obj.value = 1000 * (self.clocks[end.value] - self.clocks[start.value])
        return 0

    def cudaMemcpyAsync(self, to, source, size, kind, stream):
        ctypes.memmove(to.value, source.value, size.value)
        return 0

    def cudaEventSynchronize(self, event):
        self.waited += event.value in self.clocks
        return 0

    def cudaMemGetInfo(self, free, total):
        free._obj.value, total._obj.value = 6000 << 20, 8000 << 20
        return 0

    def cudaDeviceGetAttribute(self, pointer, number, device):
        pointer._obj.value = {75: 8, 76: 7, 16: 8, 18: int(self.integrated)}[number]
        return 0

    def cudaRuntimeGetVersion(self, pointer):
        pointer._obj.value = 12060
        return 0

    cudaDriverGetVersion = cudaRuntimeGetVersion


def convolution(kind: str, name: str = "Conv_0 + Relu_1", weights: int = 216) -> dict:
    """A layer as the engine inspector of TensorRT 8 and 10.0 tells it (DETAILED)."""
    tensor = {"Name": "x", "Location": "Device", "Dimensions": [1, 8, 16, 24], "Format/Datatype": kind}
    return {
        "Name": name, "LayerType": "CaskConvolution", "Inputs": [tensor], "Outputs": [tensor], "ParameterType": "Convolution",
        "Kernel": [3, 3], "Groups": 1, "Weights": {"Type": "Half", "Count": weights}, "TacticName": "sm80_xmma_fprop_implicit_gemm",
    }  # fmt: skip


HALF = [convolution("Channel major FP16 format where channel % 8 == 0"), convolution("Half", "Conv_2")]
FLOAT = [convolution("Row major linear FP32"), convolution("Float", "Conv_2")]
