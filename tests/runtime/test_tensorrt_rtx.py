"""Engines for RTX GPUs, really built for GPUs that are not here; and what running them needs, as far as it goes without one."""

import ctypes
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeprune.deploy import typed
from edgeprune.errors import DeviceError, EngineError
from edgeprune.runtime import cuda, tensorrt_layers, tensorrt_rtx
from edgeprune.runtime.onnxruntime import OnnxRuntimeEngine
from tests.on_device import graphs as small
from tests.on_device.fake_tensorrt import RTX, Fake
from tests.runtime.graphs import IMAGES, halved, network, onnx_of

needs_wheel = pytest.mark.skipif(not tensorrt_rtx.installed(), reason=f"skipped, {tensorrt_rtx.INSTALL}")


@pytest.fixture(scope="module")
def graphs(tmp_path_factory) -> dict[str, Path]:
    """The pruned network's graph, plain ("f32") and with each precision inside."""
    home = tmp_path_factory.mktemp("graphs")
    source = onnx_of(halved(network()), home / "simple.onnx")
    for precision in typed.PRECISIONS:
        typed.write(source, home / f"{precision}.onnx", precision, list(IMAGES))
    return {precision: home / f"{precision}.onnx" for precision in typed.PRECISIONS}


@needs_wheel
@pytest.mark.parametrize("device", ["SM86", "SM89", "SM120", "GPU"])
@pytest.mark.parametrize("precision", typed.PRECISIONS)
def test_engines_of_a_pruned_network_are_built_and_their_types_read(graphs, tmp_path, precision, device):
    built = tensorrt_rtx.ahead(graphs[precision], tmp_path, precision=precision, device=device)
    wanted = sum(n.op_type == "Conv" for n in onnx.load(graphs[precision]).graph.node)
    assert built.convolutions == {precision: wanted} and built.precision == precision
    assert built.path.stat().st_size > 10_000
    told = json.loads((tmp_path / "engine.json").read_text())
    assert told["device"] == device and told["backend"] == tensorrt_rtx.version() and told["layers"] == built.layers


@needs_wheel
@pytest.mark.parametrize("precision", ["f16", "int8"])
def test_a_graph_that_does_not_carry_the_precision_is_refused(graphs, tmp_path, precision):
    with pytest.raises(EngineError, match=rf"{precision} was asked for.*\d+ f32"):
        tensorrt_rtx.ahead(graphs["f32"], tmp_path, precision=precision, device="SM89")
    assert not (tmp_path / "engine.rtx").exists()


@needs_wheel
def test_a_node_that_is_not_taken_is_named(tmp_path):
    net = network("segnet", widths=((4, 4), (8, 8)))
    ours = onnx_of(net, tmp_path / "plain.onnx")
    assert tensorrt_rtx.ahead(ours, tmp_path, precision="f32", device="SM89").convolutions == {"f32": 8}
    model = onnx.load(ours)
    model.graph.node[5].op_type = "Softsign2"
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(EngineError, match=r"does not take .*odd.onnx: .*Softsign2") as fault:
        tensorrt_rtx.ahead(tmp_path / "odd.onnx", tmp_path, precision="f32", device="SM89")
    assert "\n" not in str(fault.value)


@needs_wheel
def test_wrong_files_and_gpus_are_one_line(graphs, tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"no onnx")
    with pytest.raises(EngineError, match="bad.onnx"):
        tensorrt_rtx.ahead(tmp_path / "bad.onnx", tmp_path, precision="f32")
    with pytest.raises(EngineError, match=r"SM89.* or GPU \(any\), not SM99"):
        tensorrt_rtx.ahead(graphs["f32"], tmp_path, precision="f32", device="SM99")


@needs_wheel
def test_a_stale_or_changed_engine_is_not_loaded(graphs, tmp_path):
    built = tensorrt_rtx.ahead(graphs["f16"], tmp_path, precision="f16", device="SM89")
    with pytest.raises(EngineError, match="another graph"):
        tensorrt_rtx.RtxEngine(built, graphs["f32"])
    with pytest.raises(EngineError, match="another GPU"):
        tensorrt_rtx.RtxEngine(built._replace(device="SM86"), graphs["f16"])
    content = bytearray(built.path.read_bytes())
    content[len(content) // 2] ^= 1
    built.path.write_bytes(content)
    with pytest.raises(EngineError, match="was changed"):
        tensorrt_rtx.RtxEngine(built, graphs["f16"])


def test_without_the_wheel_nothing_is_built_and_it_says_what_to_install(graphs, tmp_path, monkeypatch):
    monkeypatch.setattr(tensorrt_rtx, "_MODULES", ("no_such_module",))
    tensorrt_rtx.module.cache_clear()
    try:
        assert tensorrt_rtx.ahead(graphs["f16"], tmp_path, precision="f16") is None
        assert "pip install" in str(tensorrt_rtx.why_not("GPU"))
        assert tensorrt_rtx.version() == "tensorrt_rtx, not installed"
        with pytest.raises(EngineError, match="not installed here"):
            tensorrt_rtx.compile(graphs["f16"], tmp_path, precision="f16")
    finally:
        tensorrt_rtx.module.cache_clear()


RECORDED = """\
Layers:
Name: __myl_CastTranMulAdd_myl0_0, LayerType: kgen, Inputs: [ { Name: image, Dimensions: [1,64,128,3], Strides: [24576,384,3,1], StrideOrder: [3,2,1,0], Datatype: UInt8, Format: (Linear) Row major linear format }], Constants: [ { Name: scale, Dimensions: [1,3,1,1], Strides: [3,1,1,1], StrideOrder: [3,2,1,0], Datatype: Float, Format: (Linear) Row major linear format }], Outputs: [ { Name: a.1_2_myl0, Dimensions: [1,4,64,128], Strides: [32768,1,512,4], StrideOrder: [3,0,2,1], Datatype: Half, Format: (NHWC) Channel major format }], TacticName: __myl_CastTranMulAdd_0x3af3, StreamId: 0, Metadata: [ONNX Layer: node_mul][ONNX Layer: node_Conv_1]
Name: node_Conv_1_myl0_1, LayerType: correlation, Inputs: [ { Name: a.1_2_myl0, Dimensions: [1,4,64,128], Strides: [32768,1,512,4], StrideOrder: [3,0,2,1], Datatype: Half, Format: (NHWC) Channel major format }], Constants: [ { Name: w, Dimensions: [8,4,7,7], Strides: [196,1,28,4], StrideOrder: [3,0,2,1], Datatype: Half, Format: (NHWC) Channel major format }, { Name: b, Dimensions: [1], Strides: [1], StrideOrder: [0], Datatype: Float, Format: (Linear) Row major linear format }], Outputs: [ { Name: c.1_3_myl0, Dimensions: [1,8,32,64], Strides: [16384,1,512,8], StrideOrder: [3,0,2,1], Datatype: Half, Format: (NHWC) Channel major format }], TacticName: __myelin_CASK_STUB, StreamId: 0, Metadata: [ONNX Layer: node_Conv_1][ONNX Layer: node_relu]
Name: __myl_CorrAdd_myl0_2, LayerType: runtime_fusion, Inputs: [ { Name: c.1_3_myl0, Dimensions: [1,8,32,64], Strides: [16384,1,512,8], StrideOrder: [3,0,2,1], Datatype: Float, Format: (NHWC) Channel major format }], Constants: [], Outputs: [ { Name: d.1_4_myl0, Dimensions: [1,8,32,64], Strides: [16384,1,512,8], StrideOrder: [3,0,2,1], Datatype: Float, Format: (NHWC) Channel major format }], TacticName: t, StreamId: 0, Metadata: [ONNX Layer: node_Conv_2]
"""


def test_layers_are_read_as_the_inspector_tells_them():
    found = tensorrt_layers.read(RECORDED)
    assert [layer.kind for layer in found] == ["kgen", "correlation", "runtime_fusion"]
    assert found[1] == tensorrt_layers.EngineLayer(
        "node_Conv_1_myl0_1", "correlation", ("f16",), ("f16",), ("f16",), ("node_Conv_1", "node_relu")
    )
    counts = tensorrt_layers.convolutions(found, {"node_Conv_1", "node_Conv_2", "gone"})
    assert counts == {"f16": 1, "f32": 1, "unknown": 1}
    assert tensorrt_layers.read("nothing of that kind") == []


class Memory:
    """The GPU's calls on host memory."""

    stream = 0

    def __init__(self):
        self.kept = []

    def gpu(self):
        return cuda.Gpu("Test GPU", "8.9")

    def allocate(self, size):
        self.kept.append(ctypes.create_string_buffer(size))
        return ctypes.addressof(self.kept[-1])

    def to_device(self, address, array):
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def to_host(self, array, address):
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def wait(self):
        pass


def test_an_engine_runs_here_as_the_devices_scripts_run_it(tmp_path, monkeypatch):
    """Against the recorded interface: no CUDA graph, nothing told to NVTX, kernels kept beside the engine."""
    fake, graph = Fake(RTX), small.write(tmp_path, typed=False)
    fake.module.Logger.ERROR = 1
    monkeypatch.setattr(tensorrt_rtx, "module", lambda: fake.module)
    monkeypatch.setattr(cuda, "Cuda", Memory)
    path = tmp_path / "engine.rtx"
    path.write_bytes(graph.read_bytes())  # a plan of these stand-ins is its graph
    built = tensorrt_rtx.Built(path, tensorrt_rtx.version(), "SM89", "f32", {"f32": 2}, {})
    (tmp_path / "engine.json").write_text(json.dumps({"key": tensorrt_rtx._key(graph, "SM89", path)}))
    engine = tensorrt_rtx.RtxEngine(built, graph)
    assert np.array_equal(engine.predict(small.IMAGES), OnnxRuntimeEngine(graph).predict(small.IMAGES))
    assert ("IExecutionContext.nvtx_verbosity", "NONE") in fake.told
    assert not any("cuda_graph" in str(row) for row in fake.told)
    assert (tmp_path / "kernels.cache").read_bytes() == b"kernels"


DRIVER = """
#include <stdlib.h>
#include <string.h>
#include <stdint.h>
typedef void *P;
int cuInit(unsigned f) { return 0; }
int cuDeviceGet(int *d, int n) { *d = 7; return 0; }
int cuDevicePrimaryCtxRetain(P *c, int d) { *c = (P)1; return d != 7; }
int cuCtxSetCurrent(P c) { return c != (P)1; }
int cuStreamCreate(P *s, unsigned f) { *s = (P)0x123456789abcull; return f != 1; }
int cuDeviceGetName(char *n, int len, int d) { strncpy(n, "Test GPU", len); return 0; }
int cuDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? 8 : a == 76 ? 9 : -1; return 0; }
int cuMemAlloc_v2(uint64_t *a, size_t n) { *a = (uint64_t)malloc(n); return 0; }
int cuMemFree_v2(uint64_t a) { free((P)a); return 0; }
int cuMemcpyHtoDAsync_v2(uint64_t d, P h, size_t n, P s) { if (s != (P)0x123456789abcull) return 400; memcpy((P)d, h, n); return 0; }
int cuMemcpyDtoHAsync_v2(P h, uint64_t d, size_t n, P s) { if (s != (P)0x123456789abcull) return 400; memcpy(h, (P)d, n); return 0; }
int cuEventCreate(P *e, unsigned f) { *e = (P)0xfedcba987654ull; return f != 3; }
int cuEventRecord(P e, P s) { return e != (P)0xfedcba987654ull || s != (P)0x123456789abcull; }
int cuEventSynchronize(P e) { return e != (P)0xfedcba987654ull; }
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="skipped, no C compiler")
def test_the_drivers_calls_have_the_drivers_signatures(tmp_path, monkeypatch):
    """Against a stand-in with the signatures of cuda.h, compiled here: 64-bit addresses and streams arrive whole."""
    source, library = tmp_path / "driver.c", tmp_path / "libcuda.so.1"
    source.write_text(DRIVER)
    subprocess.run(["gcc", "-shared", "-fPIC", "-w", "-o", str(library), str(source)], check=True)
    monkeypatch.setattr(cuda, "_LIBRARIES", (str(library),))
    assert cuda.missing() is None
    gpu = cuda.Cuda()
    assert gpu.gpu() == ("Test GPU", "8.9") and gpu.stream == 0x123456789ABC
    sent, back = np.random.default_rng(0).integers(0, 255, (5, 7)).astype(np.uint8), np.zeros((5, 7), np.uint8)
    address = gpu.allocate(sent.nbytes)
    gpu.to_device(address, sent)
    gpu.to_host(back, address)
    gpu.wait()
    np.testing.assert_array_equal(sent, back)
    gpu.free(address)


def test_without_a_driver_or_gpu_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(cuda, "_LIBRARIES", ("no-such-library.so",))
    assert "no NVIDIA GPU here" in str(cuda.missing())
    with pytest.raises(DeviceError):
        cuda.Cuda()
