"""An agent on this machine: the path by which TensorRT runs here, with OpenVINO, ONNX Runtime and a TensorRT stand-in behind it."""

import json
import os
import textwrap
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeprune import devices
from edgeprune.deploy.half import to_float16
from edgeprune.devices import Agent, Here, device_of
from edgeprune.errors import DeviceError, EngineError
from edgeprune.profile import context
from edgeprune.profile.probes import Key
from edgeprune.profile.profiler import Profiler
from edgeprune.profile.table import Table, Where
from edgeprune.runtime import openvino
from edgeprune.runtime.onnxruntime import OnnxRuntimeEngine
from edgeprune.runtime.signature import Signature
from edgeprune.target import Target, load_target
from tests.e2e.running import command, together
from tests.on_device import graphs

BACKENDS = {"openvino": "CPU", "onnxruntime": "CPU", "tensorrt": "GPU"}
HERE = Path(__file__).parents[2]
STAND_IN = f"""
    import sys
    sys.path.insert(0, {str(HERE)!r})
    from tests.on_device.fake_tensorrt import Fake, FakeCudart
    fake = Fake("10.3.0")
    fake.module.__spec__ = __spec__
    sys.modules[__name__].__dict__.update(fake.module.__dict__)
    import cuda_runtime, measuring
    library = FakeCudart()
    cuda_runtime._library = lambda: library
    measuring.SETTINGS["seconds"] = 0.1  # what is timed is no engine
"""  # a module called tensorrt, for the agent's own process


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home of our own, and every backend by its agent."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("EDGEPRUNE_LEASE", str(tmp_path / "lease"))
    monkeypatch.setattr(devices, "AGENTS", set(BACKENDS))
    return tmp_path


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """TensorRT 10.3's interface, without a GPU, in the agent's process."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "tensorrt.py").write_text(textwrap.dedent(STAND_IN))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))


def target(backend: str, **more) -> Target:
    content = {"name": "here", "title": "here", "backend": backend, "device": BACKENDS[backend], "precision": "f32",
               "precisions": ["f32", "f16"]}  # fmt: skip
    return Target.model_validate(content | more)


def test_engines_are_built_measured_and_run(tmp_path):
    on = device_of(target("openvino"))
    assert isinstance(on, Agent) and on.why_not() is None and on.version() == openvino.version()
    a, b = (on.build(graphs.write(tmp_path, name, seed), tmp_path / name, "f32") for seed, name in enumerate("ab"))
    first, second, warm, *_ = on.pairs(a, b, graphs.IMAGES[:1], 9)
    assert first.shape == second.shape == (9,) and (first > 0).all() and len(warm) == 2
    wanted = OnnxRuntimeEngine(tmp_path / "a.onnx").predict(graphs.IMAGES)
    assert np.array_equal(a.predict(graphs.IMAGES), wanted)
    assert a.precision == "f32" and "this machine" in a.device and a.path.is_file()
    assert {layer.kind for layer in on.layers(a.path, "f32")} >= {"Convolution"}
    assert {"engine", "image to mask", "paced"} <= on.boundaries(a, graphs.IMAGES[:1])["boundaries"].keys()
    with pytest.raises(EngineError, match="timed by its agent"):
        a.bind(graphs.IMAGES[:1])


def test_tensorrt_runs_here_and_its_engine_lies_in_the_run(fake, tmp_path):
    on = device_of(target("tensorrt", precision="f16"))
    assert on.why_not() is None and on.version() == "tensorrt 10.3.0"
    assert on.identity()["gpu"]["cc"] == "8.7"
    path = graphs.write(tmp_path)
    made = on.build(path, tmp_path / "compile", "f16")
    assert (made.backend, made.precision) == ("tensorrt 10.3.0", "f16")
    assert made.path == tmp_path / "compile" / "engine.plan"
    typed = path.with_suffix(".f16.onnx")
    assert made.path.read_bytes() == typed.read_bytes(), (
        "the graph with its types inside was not the one that was built"
    )
    assert np.array_equal(made.predict(graphs.IMAGES), OnnxRuntimeEngine(typed).predict(graphs.IMAGES))
    assert len(on.pairs(made, made, graphs.IMAGES[:1], 3).slow) == 3
    kept = list((tmp_path / "home" / ".cache" / "edgeprune" / "store").glob("*/*.plan"))
    assert len(kept) == 1, "one graph is built once, not in every job"


@pytest.mark.parametrize("precision", ["f32", "f16"])
def test_the_table_is_measured_by_tensorrts_own_times(fake, tmp_path, precision):
    on = device_of(target("tensorrt"))
    where = Where(on.identity(), on.version(), precision)
    profiler = Profiler(Table(tmp_path / "table.sqlite"), where, on.layers, quiet=True, typed=True)
    s = Signature("conv", (3, 3), (1, 1), (1, 1), (1, 1), 1, (16, 32))
    keys = [Key(s, 16, 16), Key(s, 16, 24), Key(Signature("deconv", (2, 2), (2, 2), (0, 0), (1, 1), 1, (16, 32)), 8, 8)]
    assert profiler.ensure(keys) == dict.fromkeys(keys, 0.25)


def test_the_profile_of_a_network_reuses_its_engine(fake, tmp_path):
    on, path = device_of(target("tensorrt")), graphs.write(tmp_path)
    model = onnx.load(path)
    for name, node in zip("ab", [n for n in model.graph.node if n.op_type == "Conv"], strict=True):
        node.name = name
    onnx.save(model, path)
    onnx.save(to_float16(model), path.with_suffix(".f16.onnx"))
    on.build(path, tmp_path / "home", "f16")
    found = on.layers(path, "f16")
    assert [tuple(layer) for layer in found] == [("a", "Convolution", 0.25), ("b", "Convolution", 0.25)]
    assert len(list((tmp_path / "home" / ".cache" / "edgeprune" / "store").glob("*/*.plan"))) == 1
    seen = context.read(path, found)
    assert sum(len(times) for times in seen.convolutions.values()) == 2 and seen.all_convolutions == 0.5


def test_a_machine_without_tensorrt_says_so_in_one_line(tmp_path):
    reason = device_of(load_target("tensorrt")).why_not()
    assert reason and "\n" not in reason and "tensorrt" in reason and "pip install tensorrt" in reason


def test_a_machine_without_a_gpu_says_so_in_one_line(fake, tmp_path):
    module = tmp_path / "modules" / "tensorrt.py"
    module.write_text(module.read_text() + "\ndef missing():\n    raise RuntimeError('libcudart is not found')\n"
                      "cuda_runtime._library = missing\n")  # fmt: skip
    reason = device_of(load_target("tensorrt")).why_not()
    assert reason == "libcudart is not found"


def test_a_desktops_milliseconds_are_never_a_boards(fake):
    """The stand-in is of compute capability 8.7, as Orin is."""
    assert device_of(load_target("jetson")).why_not() is None
    figures = {"chip": "x", "compute_capability": "8.9", "source": "none"}
    other = load_target("jetson").model_copy(update={"catalogue": target("tensorrt", catalogue=figures).catalogue})
    assert "capability 8.7, that of jetson of 8.9" in str(device_of(other).why_not())


def test_a_job_that_fails_or_takes_too_long_is_one_line(tmp_path):
    on = device_of(target("onnxruntime"))
    with pytest.raises(EngineError, match="runs f32 here"):
        on.build(graphs.write(tmp_path, typed=False), tmp_path / "home", "f16")
    slow = device_of(target("onnxruntime", run_seconds=1))
    made = slow.build(graphs.write(tmp_path, typed=False), tmp_path / "home", "f32")
    with pytest.raises(DeviceError, match="run_seconds"):
        slow.pairs(made, made, graphs.IMAGES[:1], 10_000_000)
    none = device_of(target("onnxruntime", python=str(tmp_path / "nowhere")))
    assert "does not start" in str(none.why_not())


def test_a_changed_graph_in_the_store_is_put_there_anew(tmp_path):
    link = Here(target("onnxruntime"))
    path = graphs.write(tmp_path)
    there = Path(link.put([path]))
    there.write_bytes(b"damaged")
    assert Path(link.put([path])).read_bytes() == path.read_bytes()


@pytest.fixture
def torch_tensorrt(tmp_path):
    """torch-tensorrt's interface in processes of their own."""
    home = tmp_path / "modules" / "torch_tensorrt"
    home.mkdir()
    (home / "__init__.py").touch()
    (home / "dynamo.py").write_text("from tests.runtime.fake_torch_tensorrt import *\n")


@pytest.mark.parametrize("route", ["onnx", "torch_tensorrt"])
def test_a_whole_run_of_target_tensorrt(fake, torch_tensorrt, tmp_path, route):
    """The command itself, with TensorRT's interface standing in: status 0, no bundle, the engine's own precision."""
    settings = ["deploy.gates.boundary_drop=null", "deploy.gates.class_drop=null",
                "model.args.width=16", "prune.step=8", f"deploy.route={route}"]  # fmt: skip
    path = os.pathsep.join([str(HERE), os.environ["PYTHONPATH"]])
    line = command(tmp_path, *settings, target="tensorrt")
    done = together(line, [{"PYTHONPATH": path}])[0]
    assert done.returncode == 0, done.stderr[-2000:]
    home = tmp_path / "quickstart@tensorrt"
    report = json.loads((home / "report.json").read_text())
    assert report["engine"]["measured"] and report["engine"]["backend"] == "tensorrt 10.3.0"
    assert report["engine"]["precision_found"] == "f16" and (home / "compile" / "pruned" / "engine.plan").is_file()
    assert report["boundaries"]["boundaries"].keys() == {"engine", "with copies", "image to mask", "paced"}
    assert report["engine"]["route"] == route and not (home / "bundle.tar.gz").exists()
    assert (report["layers"] is None) == (route == "torch_tensorrt")
    beside = home / "compile" / "pruned" / "torch_tensorrt" / "pruned.f16.engine"
    assert beside.exists() == (route == "torch_tensorrt")
    if beside.exists():
        assert (home / "compile" / "pruned" / "engine.plan").read_bytes() == beside.read_bytes()
