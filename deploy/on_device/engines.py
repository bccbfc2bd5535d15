"""The backends on the device, by name. Each class builds an engine of a graph of uint8 (1, H, W, 3) to its first output: uint8
masks (1, H, W), float32 logits (1, K) or a detector's float32 raw heads (1, N, K + 4).

`backend`, `precision` (as read back), `facts`, `output` (its name); `predict(image)` gives the answer; `bind(image)` gives a
call from image to answer for timing; `boundaries(image)` gives {boundary: call}, where a call that knows better than the
clock returns its ms. Where there are `layers(runs)`, they are [name, kind, ms] under the graph's names, or with a fourth, the
graph's nodes that went into a layer of a fused engine.
"""

import functools
import os
import sys

import measuring
import numpy as np
import score
from cuda_runtime import Cuda
from trt import TensorRT, TensorRTRTX, load

# nothing leaves the device: ONNX Runtime 1.29 and later report every graph unless told not to before they are imported, and
# OpenVINO's converter unless its reporter cannot be; edgeprune/telemetry.py does the same on the host
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
sys.modules.setdefault("openvino_telemetry", None)


class OnnxRuntime:
    """The graph in f32 on the CPU: a check of the graph, not of the device."""

    def __init__(self, path, precision, calibration=None, device="CPU", threads=0, **unused):
        import onnxruntime as ort

        if precision != "f32":
            raise ValueError("ONNX Runtime runs f32 here; add --precision f32")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.backend, self.precision, self.facts = "onnxruntime " + ort.__version__, "f32", {}
        self.name, self.output = self.session.get_inputs()[0].name, self.session.get_outputs()[0].name

    def predict(self, image):
        return self.session.run([self.output], {self.name: image})[0]

    def bind(self, image):
        return lambda: self.predict(image)

    def boundaries(self, image):
        binding = self.session.io_binding()
        self.image = np.array(image, order="C")  # shared with the binding
        binding.bind_cpu_input(self.name, self.image)
        binding.bind_output(self.output)
        alone = functools.partial(self.session.run_with_iobinding, binding)
        return {"engine": alone, score.whole(self.output): self.bind(image)}


@functools.lru_cache(maxsize=None)
def core():
    """One Core, kept until the end: where several come and go, OpenVINO leaves a freed signal stack (Ctrl-C then kills)."""
    import openvino as ov

    return ov.Core()


def find(device):
    """Raises RuntimeError if OpenVINO has no such device here."""
    found = core().available_devices
    if not any(device in (name, name.split(".")[0]) for name in found):  # "GPU" is the first of "GPU.0", "GPU.1"
        raise RuntimeError("OpenVINO finds no %s here, only %s" % (device, ", ".join(found)))


class OpenVINO:
    """An engine for an Intel CPU, GPU or NPU."""

    def __init__(self, path, precision, calibration=None, device="CPU", threads=0, layers=False, **unused):
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
        self.precision, self.facts = self._found(), {}
        names = self.compiled.output(0).get_names()
        self.output = min(names) if names else ""

    def layers(self, runs, warm=2):
        """[name, kind, milliseconds] of every operator, on noise, over at least `runs` runs: see `measuring.by_layer`."""
        rng = np.random.RandomState(0)
        for port in self.compiled.inputs:
            self.request.get_tensor(port).data[:] = measuring.noise(rng, list(port.shape), port.element_type.to_dtype())

        def run():
            self.request.infer()
            return [(row, row.real_time.total_seconds() * 1000) for row in self.request.get_profiling_info()]

        found = measuring.by_layer(run, runs, warm)
        names = [row.node_name for row, _ in found]
        names = [n[: -len("/WithoutBiases")] if n.endswith("/WithoutBiases") else n for n in names]
        return [[name, row.node_type, ms] for name, (row, ms) in zip(names, found)]

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

    def boundaries(self, image):
        import openvino as ov

        alone, whole = self.compiled.create_infer_request(), self.compiled.create_infer_request()
        self.image = np.array(image, order="C")
        alone.set_input_tensor(ov.Tensor(self.image, shared_memory=True))
        return {
            "engine": alone.infer,
            score.whole(self.output): lambda: np.array(whole.infer({0: image})[self.compiled.output(0)]),
        }


def version(backend, device):
    """(the backend's name and version, what its GPU is or None), once it is sure that the device is there."""
    if backend == "openvino":
        import openvino as ov

        find(device)
        return "openvino %s" % ov.__version__.split("-")[0], None
    found = "%s %s" % (backend, load(backend).__version__)
    return found, Cuda().device() if backend in ("tensorrt", "tensorrt_rtx") else None


BACKENDS = {"tensorrt": TensorRT, "tensorrt_rtx": TensorRTRTX, "openvino": OpenVINO, "onnxruntime": OnnxRuntime}
