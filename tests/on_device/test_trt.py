"""The TensorRT engine of the device package against the interfaces of five real versions, with ONNX Runtime behind them."""

import importlib.util
from pathlib import Path

import board
import layers
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import trt
import trt_build

from tests.on_device import graphs
from tests.on_device.fake_tensorrt import FLAGS_ONLY, FLOAT, RTX, VERSIONS, Fake, convolution

pytestmark = pytest.mark.usefixtures("cuda")


def wanted(path: Path) -> np.ndarray:
    run = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.concatenate([run.run(None, {"image": image[None]})[0] for image in graphs.IMAGES])


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_builds_runs_and_is_timed(use, graph, tmp_path, version):
    fake = use(version)
    made = trt.TensorRT(str(graph), "f16", home=str(tmp_path))
    assert made.backend == f"tensorrt {version}" and made.precision == "f16"
    masks = np.concatenate([made.predict(image[None]) for image in graphs.IMAGES])
    source = graph if version in FLAGS_ONLY else graph.with_suffix(".f16.onnx")
    assert np.array_equal(masks, wanted(source))
    calls = made.boundaries(graphs.IMAGES[:1])
    assert isinstance(calls["engine"](), float) and calls["with copies"]() is None
    assert np.array_equal(calls["image to mask"](), masks[:1])
    told = [name for name, *_ in fake.told]
    assert "IBuilderConfig.profiling_verbosity" in told and "IBuilderConfig.set_memory_pool_limit" in told
    assert ("IBuilderConfig.clear_flag", "TF32") in fake.told


@pytest.mark.parametrize("version", VERSIONS)
def test_logits_come_out_as_floats(use, tmp_path, version):
    path = graphs.write(tmp_path, logits=True)
    use(version)
    made = trt.TensorRT(str(path), "f16")
    found = np.concatenate([made.predict(image[None]) for image in graphs.IMAGES])
    assert found.dtype == np.float32 and found.shape == (3, 4)
    assert np.array_equal(found, wanted(path if version in FLAGS_ONLY else path.with_suffix(".f16.onnx")))
    assert np.array_equal(made.boundaries(graphs.IMAGES[:1])["image to logits"](), found[:1])


@pytest.mark.parametrize("version", VERSIONS)
def test_precision_goes_the_way_that_the_version_has(use, graph, version):
    fake = use(version)
    path, way = trt_build.route(fake.module, str(graph), "f16")
    assert (way, Path(path).name) == (
        ("flags", "pruned.onnx") if version in FLAGS_ONLY else ("typed", "pruned.f16.onnx")
    )
    trt.TensorRT(str(graph), "f16")
    flagged = ("IBuilderConfig.set_flag", "FP16") in fake.told
    assert flagged == (way == "flags")
    created = next(args for name, *args in fake.told if name == "Builder.create_network")
    typed = 1 << fake.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED if way == "typed" else 0
    assert created[0] & ~1 == typed & ~1


def test_f16_without_its_graph(use, tmp_path):
    alone = graphs.write(tmp_path, typed=False)
    assert trt_build.route(use("10.3.0").module, str(alone), "f16") == (str(alone), "flags")  # 10 has its flags still
    with pytest.raises(ValueError, match=r"pruned.f16.onnx is not here"):
        trt_build.route(use("11.4.0.106").module, str(alone), "f16")
    for version in VERSIONS:
        with pytest.raises(ValueError, match="Q/DQ"):
            trt_build.route(use(version).module, str(alone), "int8")
        assert trt_build.route(use(version).module, str(alone), "f32")[0] == str(alone)


def test_int8_by_flags_takes_the_graph_with_f32_steps(use, tmp_path):
    graph = graphs.write(tmp_path)
    for end in (".int8.onnx", ".int8.flags.onnx"):
        graph.with_suffix(end).write_bytes(b"")
    ends = {v: Path(trt_build.route(use(v).module, str(graph), "int8")[0]).name for v in VERSIONS}
    assert all(ends[v] == ("pruned.int8.flags.onnx" if v in FLAGS_ONLY else "pruned.int8.onnx") for v in VERSIONS), ends


def test_types_are_not_asked_of_nptype(use, graph, monkeypatch):
    """That of TensorRT 8.5 needs np.bool, which numpy 1.24 has not."""
    fake = use("8.5.3.1")
    monkeypatch.delattr(fake.module, "nptype")
    kinds = fake.module.DataType
    assert trt.numpy_type(fake.module, kinds.HALF) is np.float16 and trt.numpy_type(fake.module, kinds.BOOL) is np.bool_
    assert set(trt.NUMPY) >= {"FLOAT", "HALF", "INT8", "INT32", "UINT8", "BOOL"}


@pytest.mark.parametrize("version", ["8.5.3.1", "10.3.0", "11.4.0.106"])
def test_an_f16_engine_of_f32_convolutions_is_refused(use, graph, tmp_path, version):
    use(version, FLOAT)
    with pytest.raises(ValueError, match="100 % of the convolutions' work in the engine is f32"):
        trt.TensorRT(str(graph), "f16", home=str(tmp_path))
    assert not list(tmp_path.glob("*.plan")), "a refused engine is not kept"


def test_an_engine_is_kept_and_refused_when_anything_changes(use, graph, tmp_path, monkeypatch):
    fake = use("10.3.0")
    first = trt.TensorRT(str(graph), "f16", home=str(tmp_path))
    again = trt.TensorRT(str(graph), "f16", home=str(tmp_path))
    assert (first.built, again.built, fake.builds) == (True, False, 1)
    assert np.array_equal(again.predict(graphs.IMAGES[:1]), first.predict(graphs.IMAGES[:1]))
    assert again.facts["workspace_mb"] == first.facts["workspace_mb"] and first.facts["free_mb"]
    now = board.fingerprint()
    monkeypatch.setattr(board, "fingerprint", lambda: {**now, "power_mode": "15W", "l4t": "36.4.7"})
    other = trt.TensorRT(str(graph), "f16", home=str(tmp_path))
    assert other.built and "l4t was None, now 36.4.7; power_mode was" in other.why_built
    plan = next(tmp_path.glob("*.plan"))
    plan.write_bytes(plan.read_bytes() + b" ")
    assert "damaged" in trt.TensorRT(str(graph), "f16", home=str(tmp_path)).why_built
    newer = use("10.13.3.9")
    assert (
        "backend was tensorrt 10.3.0" in trt.TensorRT(str(graph), "f16", home=str(tmp_path)).why_built
        and newer.builds == 1
    )


def test_the_timing_cache_is_kept_for_a_device_and_version(use, graph, tmp_path):
    use("10.3.0")
    assert trt.TensorRT(str(graph), "f16", home=str(tmp_path)).facts["timing_cache"] == "new"
    (cache,) = tmp_path.glob("timing.*.cache")
    assert "10.3.0" in cache.name and "8.7" in cache.name and cache.read_bytes() == b"timings"
    fake = use("10.3.0")
    assert trt.TensorRT(str(graph), "f16", home=str(tmp_path), workspace_mb=77).facts["timing_cache"] == "kept"
    assert ("cache", b"timings") in fake.told and (
        "IBuilderConfig.set_memory_pool_limit",
        "WORKSPACE",
        77 << 20,
    ) in fake.told
    use("10.3.0", cache_is_taken=False)
    assert trt.TensorRT(str(graph), "f16", home=str(tmp_path), workspace_mb=78).facts["timing_cache"] == "refused, new"


LOG = [
    "---------- Layers Running on DLA ----------", "[DlaLayer] {ForeignNode[Conv_0...Relu_1]}",
    "---------- Layers Running on GPU ----------", "[GpuLayer] POOLING: /pool/MaxPool", "[GpuLayer] TOPK: /ArgMax",
    "Tactic Device request: 449MB Available: 425MB. Device memory is insufficient to use tactic.",
    "Skipping tactic 3 due to insuficient memory on requested size of 449 detected for tactic 4.",
    "UNSUPPORTED_STATE: Skipping tactic 9 due to insufficient memory on requested size of 1048576000 detected for tactic 0x8a.",
    "Skipping tactic 0x0000000000000000 due to exception Assertion numDimensions <= Dims::MAX_DIMS failed.",
]  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS)
def test_what_the_inspector_needs_costs_no_time_at_runs(use, graph, version):
    """Built DETAILED, and every run would tell NVTX as much; the profiler alone wants it."""
    fake = use(version)
    made = trt.TensorRT(str(graph), "f16")
    assert ("IBuilderConfig.profiling_verbosity", "DETAILED") in fake.told
    assert made.context.nvtx_verbosity.name == "NONE"
    made.layers(2)
    assert made.context.nvtx_verbosity.name == "DETAILED"


def test_waiting_never_spins(use, graph, cuda):
    """`measuring.SETTINGS` says so. The stand-in has neither plain events nor the stream's own wait, which may spin."""
    use("10.3.0")
    made = trt.TensorRT(str(graph), "f16")
    before = cuda.waited
    for call in made.boundaries(graphs.IMAGES[:1]).values():
        call()
    assert cuda.flags == {1} and cuda.waited >= before + 3, "an event that has not been recorded is not waited for"


def test_the_builder_gets_half_of_the_memory_that_it_will_use(use, graph, cuda):
    fake, free = use("10.3.0"), board.memory()["free"]
    facts = trt.TensorRT(str(graph), "f16").facts
    assert facts["memory"] == "the board's" and abs(facts["free_mb"] - free) < 0.5 * free
    cuda.integrated = False
    facts = trt.TensorRT(str(graph), "f16").facts
    assert (facts["memory"], facts["free_mb"], facts["workspace_mb"]) == ("the GPU's own", 6000, 3000)
    assert ("IBuilderConfig.set_memory_pool_limit", "WORKSPACE", 3000 << 20) in fake.told


SPARSE = [  # of trtexec --sparsity=enable --verbose, TensorRT 8.5 and 10.3 (NVIDIA/TensorRT issues 2169 and 4056)
    "(Sparsity) Layers eligible for sparse math: Conv_22, Conv_235 + Relu_236, MatMul_51",
    "(Sparsity) TRT inference plan picked sparse implementation for layers: Conv_235 + Relu_236",
]
NO_SPARSE = [line.partition(":")[0] + ":" for line in SPARSE]


@pytest.mark.parametrize("version", VERSIONS)
def test_sparse_kernels_are_allowed_and_what_came_of_it_is_told(use, graph, version):
    fake = use(version, log=SPARSE)
    made = trt.TensorRT(str(graph), "f16")
    assert ("IBuilderConfig.set_flag", "SPARSE_WEIGHTS") in fake.told
    assert made.facts["sparse"] == {
        "eligible": ["Conv_22", "Conv_235 + Relu_236", "MatMul_51"],
        "picked": ["Conv_235 + Relu_236"],
    }
    use(version, log=NO_SPARSE)
    assert trt.TensorRT(str(graph), "f16").facts["sparse"] == {"eligible": [], "picked": []}


def test_dla_is_off_unless_asked_for_and_then_its_placement_is_told(use, graph):
    fake = use("10.3.0", log=LOG, dla=2)
    plain = trt.TensorRT(str(graph), "f16")
    assert "placement" not in plain.facts and not any("DLA" in str(row) for row in fake.told)
    assert plain.facts["skipped_tactics"] == 2, "a line each, and only for want of memory"
    made = trt.TensorRT(str(graph), "f16", dla=1)
    assert (
        made.facts["placement"]["dla"] == ["{ForeignNode[Conv_0...Relu_1]}"]
        and len(made.facts["placement"]["gpu"]) == 2
    )
    assert ("IBuilderConfig.default_device_type", "DLA") in fake.told and ("IBuilderConfig.DLA_core", 1) in fake.told
    assert ("IBuilderConfig.set_flag", "GPU_FALLBACK") in fake.told
    use("10.3.0", dla=2)
    with pytest.raises(RuntimeError, match="put no layer there"):
        trt.TensorRT(str(graph), "f16", dla=0)
    use("11.4.0.106", log=LOG, dla=0)
    with pytest.raises(RuntimeError, match="no DLA core 0 here"):
        trt.TensorRT(str(graph), "f16", dla=0)


def test_a_graph_that_the_parser_does_not_read_is_one_line(use, tmp_path):
    use("11.4.0.106")
    (tmp_path / "pruned.onnx").write_bytes(b"bad graph")
    with pytest.raises(RuntimeError, match="cannot read .*pruned.onnx: In node 3: no importer for Odd"):
        trt.TensorRT(str(tmp_path / "pruned.onnx"), "f32")


def test_the_recorded_versions_differ_where_the_code_asks():
    modules = {v: Fake(v).module for v in VERSIONS}
    assert [hasattr(m.BuilderFlag, "FP16") for m in modules.values()] == [True, True, True, True, False]
    assert [hasattr(m.NetworkDefinitionCreationFlag, "STRONGLY_TYPED") for m in modules.values()] == [False] * 2 + [
        True
    ] * 3
    assert [hasattr(m.IBuilderConfig, "builder_optimization_level") for m in modules.values()] == [False] + [True] * 4
    with pytest.raises(AttributeError):
        modules["8.5.3.1"].IBuilderConfig().builder_optimization_level = 3
    with pytest.raises(TypeError):
        modules["11.4.0.106"].IBuilderConfig().set_timing_cache("one")


@pytest.mark.parametrize(
    ("spelled", "kind"),
    [
        ("Channel major FP16 format where channel % 4 == 0", "f16"), ("Row major linear FP16 format", "f16"), ("Half", "f16"),
        ("Thirty-two wide channel vectorized row major Int8 format.", "int8"), ("Int8", "int8"), ("Float", "f32"),
        ("Row major linear FP32", "f32"), ("BFloat16", "bf16"), ("Row major linear BFloat16 format", "bf16"), ("", "unknown"),
    ],
)  # fmt: skip
def test_spellings_of_types(spelled, kind):
    assert layers.kind(spelled) == kind


def test_types_are_weighed_by_work_and_fused_kernels_count():
    rows = [
        convolution("Half", weights=900), convolution("Float", weights=100),
        {"Name": "r", "LayerType": "Reformat", "Inputs": [{"Format/Datatype": "Float"}], "Metadata": "[ONNX Layer: node_conv2d]"},
        {"Name": "p", "LayerType": "CudaPooling", "ParameterType": "Pooling", "Inputs": [{"Format/Datatype": "Float"}]},
        {"Name": "m", "LayerType": "kgen", "Inputs": [{"Format/Datatype": "Half"}], "Metadata": "[ONNX Layer: node_Convert_2]"},
    ]  # fmt: skip
    shares = layers.convolution_types(rows)
    assert shares == {"f16": 0.9, "f32": 0.1} and layers.found(shares) == "f16"
    layers.refuse("f16", shares)
    fused = {
        "Name": "__myl_Conv",
        "LayerType": "conv",
        "Inputs": [{"Format/Datatype": "Half"}],
        "Metadata": "[ONNX Layer: a]",
    }
    assert layers.convolution_types([fused]) == {"f16": 1.0}
    assert (
        layers.convolution_types(layers.read('{"Layers": ["conv1", "relu"]}')) == {}
    )  # names only: nothing is claimed
    with pytest.raises(ValueError, match="are f16"):
        layers.refuse("int8", {"f16": 1.0})
    layers.refuse("f16", {})


def test_an_engine_that_was_built_ahead_is_the_one_that_is_checked(use, tmp_path, monkeypatch):
    """A plan of these fakes is its graph's bytes, so another graph's answers tell whose engine ran."""
    fake = use(RTX)
    f32, other = graphs.write(tmp_path, "classes"), graphs.write(tmp_path, "logits", logits=True)
    path, ahead = tmp_path / "pruned.onnx", tmp_path / "pruned.f16.rtx"
    for end in (".onnx", ".f16.onnx"):
        path.with_suffix(end).write_bytes(f32.with_suffix(end).read_bytes())
    ahead.write_bytes(other.with_suffix(".f16.onnx").read_bytes())
    made = trt.TensorRTRTX(str(path), "f16", home=str(tmp_path / "engines"))
    assert fake.builds == 0 and made.facts["route"] == "built ahead" and made.output == "logits"
    assert trt.TensorRTRTX(str(path), "f16", home=str(tmp_path / "engines")).built is False
    runtime = fake.module.Runtime.deserialize_cuda_engine
    refused = ahead.read_bytes()
    monkeypatch.setattr(
        fake.module.Runtime,
        "deserialize_cuda_engine",
        lambda s, plan: None if bytes(plan) == refused else runtime(s, plan),
    )
    made = trt.TensorRTRTX(str(path), "f16", home=str(tmp_path / "new"))
    assert fake.builds == 1 and made.facts["route"] == "typed" and made.output != "logits"


def test_kernels_of_tensorrt_for_rtx_are_kept_beside_the_engine(use, graph, tmp_path):
    fake, kept = use(RTX), tmp_path / "pruned.f16.kernels"
    made = trt.TensorRTRTX(str(graph), "f16", home=str(tmp_path))
    assert made.facts["kernels"] == "compiled here" and kept.read_bytes() == b"kernels"
    assert np.array_equal(made.predict(graphs.IMAGES[:1]), wanted(graph.with_suffix(".f16.onnx"))[:1])
    again = trt.TensorRTRTX(str(graph), "f16", home=str(tmp_path))
    assert again.facts["kernels"] == "kept" and fake.builds == 1
    assert not any("cuda_graph" in str(row) for row in fake.told), "the host times without one"
    kept.write_bytes(b"of another GPU")
    assert trt.TensorRTRTX(str(graph), "f16", home=str(tmp_path)).facts["kernels"] == "compiled here"
    assert kept.read_bytes() == b"kernels" and "kernels" not in trt.TensorRTRTX(str(graph), "f16").facts


def given(path):
    """torch-tensorrt's engine beside a graph: float32 in, int32 out, a numbered output."""
    graph = onnx.load(path.with_suffix(".f16.onnx"))
    out, last, whole = graph.graph.output[0], graph.graph.node[-1], onnx.TensorProto.INT32
    graph.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    out.type.tensor_type.elem_type = last.attribute[0].i = whole
    out.name = last.output[0] = "output0"
    path.with_suffix(".f16.engine").write_bytes(graph.SerializeToString())


def test_torch_tensorrts_engine_is_taken_as_built(use, tmp_path):
    fake, graph, home = use("10.13.3.9"), graphs.write(tmp_path), str(tmp_path / "engines")
    wanted = trt.TensorRT(str(graph), "f16", home=home).predict(graphs.IMAGES[:1])
    given(graph)
    made = trt.TensorRT(str(graph), "f16", home=home)
    assert fake.builds == 1 and made.built and made.facts["route"] == "torch_tensorrt"
    assert "settings was" in made.why_built, "the other route's engine was taken for it"
    assert made.precision == "f16" and made.output == "classes"
    found = made.predict(graphs.IMAGES[:1])
    assert found.dtype == np.uint8 and np.array_equal(found, wanted)
    assert made.boundaries(graphs.IMAGES[:1]).keys() == {"engine", "with copies", "image to mask"}
    assert trt.TensorRT(str(graph), "f16", home=home).built is False
    assert trt_build.route(fake.module, str(graph), "f32")[1] == "flags", "an engine is of one precision"


def test_torch_tensorrts_engine_that_tells_no_types_or_does_not_load_is_refused(use, tmp_path, monkeypatch):
    fake, graph = use("10.13.3.9"), graphs.write(tmp_path)
    fake.layers = [{"Name": "names only"}]
    given(graph)
    with pytest.raises(RuntimeError, match="does not tell at which types"):
        trt.TensorRT(str(graph), "f16")
    monkeypatch.setattr(fake.module.Runtime, "deserialize_cuda_engine", lambda s, plan: None)
    with pytest.raises(RuntimeError, match="which another TensorRT has built"):
        trt.TensorRT(str(graph), "f16")
    assert fake.builds == 0, "built by the other route instead"


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx_bindings") is None, reason="skipped, no TensorRT for RTX here"
)
@pytest.mark.parametrize("precision", ["f32", "f16"])
def test_the_real_bindings_of_tensorrt_rtx_take_what_we_tell_them(graph, tmp_path, precision):
    module, log = trt.load("tensorrt_rtx"), []
    path, way = trt_build.route(module, str(graph), precision)
    assert way == "typed"
    plan, facts = trt_build.build(
        module, trt.logger(module, log), path, precision, way, 512, None, str(tmp_path / "t.cache")
    )
    assert facts["bytes"] == len(bytes(plan)) > 1000


@pytest.mark.parametrize("version", VERSIONS)
def test_times_by_layer_are_what_the_profiler_is_told(use, graph, version):
    fake = use(version, times=[("Conv_0 + Relu_1", 0.5), ("Conv_2", 0.25), ("unheard of", 0.125)])
    made = trt.TensorRT(str(graph), "f16")
    rows = made.layers(3)
    assert rows == [
        ["Conv_0 + Relu_1", "CaskConvolution", 0.5, ["Conv_0", "Relu_1"]], ["Conv_2", "CaskConvolution", 0.25, ["Conv_2"]],
        ["unheard of", "", 0.125, ["unheard of"]],
    ]  # fmt: skip
    assert ("IExecutionContext.profiler", made.profiler) in fake.told
    assert made.predict(graphs.IMAGES[:1]).shape == (1, 32, 48)


def test_a_tensorrt_that_tells_no_times_says_so(use, graph, monkeypatch):
    fake = use("10.3.0")
    made = trt.TensorRT(str(graph), "f16")
    monkeypatch.setattr(fake.module.IExecutionContext, "enqueue_emits_profile", False)
    with pytest.raises(RuntimeError, match="no times by layer"):
        made.layers(3)
    monkeypatch.delattr(fake.module, "IProfiler")
    with pytest.raises(RuntimeError, match=r"10\.3\.0 tells no times by layer: it has no IProfiler"):
        made.layers(3)
