import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgeprune import models
from edgeprune.data.transforms import IMAGENET, normalised
from edgeprune.deploy import gates, simplify
from edgeprune.deploy.export import Shipped, export
from edgeprune.errors import EngineError, ExportError
from edgeprune.runtime import BACKENDS, openvino
from edgeprune.runtime.onnxruntime import OnnxRuntimeEngine

IMAGES = np.random.default_rng(0).integers(0, 255, (3, 32, 64, 3)).astype(np.uint8)


def net_of(seed=0, **args) -> nn.Module:
    torch.manual_seed(seed)
    net = models.build("streetnet", {"width": 8, "blocks": 1, **args}, None, 5)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.3)
            m.running_var.uniform_(0.5, 2)
    return net.eval()


@pytest.fixture(scope="module")
def graph(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    export(Shipped(net_of(), *IMAGENET), (32, 64), path, 20)
    return path


def torch_masks(net=None) -> np.ndarray:
    with torch.no_grad():
        return models.logits_of((net or net_of())(normalised(IMAGES))).argmax(1).numpy().astype(np.uint8)


def test_the_graph_takes_bytes_and_gives_bytes(graph):
    model = onnx.load(graph)
    (i,), (o,) = model.graph.input, model.graph.output
    shape = lambda v: [d.dim_value for d in v.type.tensor_type.shape.dim]  # noqa: E731
    assert (i.name, shape(i), i.type.tensor_type.elem_type) == ("image", [1, 32, 64, 3], onnx.TensorProto.UINT8)
    assert (o.name, shape(o), o.type.tensor_type.elem_type) == ("classes", [1, 32, 64], onnx.TensorProto.UINT8)
    ends = [n.op_type for n in model.graph.node if "image" in n.input or "classes" in n.output]
    assert ends == ["Cast", "Cast"]  # TensorRT takes uint8 only right beside a cast
    assert model.opset_import[0].version == 20 and not list(graph.parent.glob("*.data"))


FILES = {name: backend for name, backend in BACKENDS.items() if name != "inductor"}  # that takes networks, not files
HERE = [name for name, backend in FILES.items() if backend.why_not("CPU") is None]  # what runs on this machine


@pytest.mark.parametrize("backend", HERE)
def test_every_backend_agrees_with_pytorch(graph, tmp_path, backend):
    engine = BACKENDS[backend].compile(graph, tmp_path, precision="f32")
    assert (engine.predict(IMAGES) == torch_masks()).mean() > 0.9999
    assert engine.precision == "f32"
    engine.bind(IMAGES[:1])()


@pytest.mark.parametrize("precision", ["int8", "bf16", "f16"])
def test_precision_is_read_back_from_the_engine(graph, tmp_path, precision):
    engine = openvino.compile(graph, tmp_path, precision=precision, calibration=list(IMAGES))
    floats = {
        "f16",
        "bf16",
        "f32",
    }  # by what the CPU can do: one without f16 but with bf16 takes bf16 when asked for f16
    allowed = {"int8": {"int8"}, "bf16": floats - {"f16"}, "f16": floats}
    assert engine.precision in allowed[precision]
    assert (engine.predict(IMAGES) == torch_masks()).mean() > 0.7


def test_int8_without_images_and_f16_in_onnxruntime_are_refused(graph, tmp_path):
    with pytest.raises(EngineError, match="calibration"):
        openvino.compile(graph, tmp_path, precision="int8")
    with pytest.raises(EngineError, match="runs f32"):
        BACKENDS["onnxruntime"].compile(graph, tmp_path, precision="f16")


def test_a_damaged_graph_is_one_line(tmp_path):
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"no onnx")
    for backend in HERE:
        with pytest.raises(EngineError, match="bad.onnx"):
            BACKENDS[backend].compile(path, tmp_path, precision="f32")


def test_a_network_that_cannot_be_exported_is_one_line(tmp_path):
    class Odd(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ExportError, match="cannot export") as fault:
        export(Shipped(Odd(), *IMAGENET), (32, 64), tmp_path / "odd.onnx", 20)
    assert "\n" not in str(fault.value) and not (tmp_path / "odd.onnx").exists()


def test_logits_as_second_output(tmp_path):
    export(Shipped(net_of(), *IMAGENET, logits=True), (32, 64), tmp_path / "l.onnx", 20)
    classes, logits = OnnxRuntimeEngine(tmp_path / "l.onnx").outputs(IMAGES[:1])
    assert logits.dtype == np.float32 and logits.shape == (1, 5, 32, 64)
    np.testing.assert_array_equal(logits.argmax(1), classes)


@pytest.mark.parametrize("name", ["deeplabv3", "deeplabv3plus", "segnet"])
def test_our_networks_go_all_the_way(tmp_path, name):
    torch.manual_seed(0)
    small = {"segnet": {"widths": ((4, 4), (8, 8))}}.get(
        name, {"depth": 18, "width": 8, "head": 16, "output_stride": 16}
    )
    net = models.build(name, small, None, 5).eval()
    export(Shipped(net, *IMAGENET), (32, 64), tmp_path / "n.onnx", 18)
    done = simplify.simplify(tmp_path / "n.onnx", tmp_path / "s.onnx", IMAGES)
    assert done.kept is None
    for backend in HERE:
        masks = BACKENDS[backend].compile(tmp_path / "s.onnx", tmp_path, precision="f32").predict(IMAGES)
        assert (masks == torch_masks(net)).mean() > 0.999


def test_simplify_is_believed_only_after_a_check(graph, tmp_path, monkeypatch):
    done = simplify.simplify(graph, tmp_path / "s.onnx", IMAGES)
    assert done.kept is None and done.difference is not None and done.difference < 1e-4
    other = tmp_path / "other.onnx"
    export(Shipped(net_of(seed=1), *IMAGENET), (32, 64), other, 20)
    monkeypatch.setattr(
        simplify, "_run", lambda source, attempt, seconds: attempt.write_bytes(other.read_bytes()) and None
    )
    wrong = simplify.simplify(graph, tmp_path / "w.onnx", IMAGES)
    assert wrong.kept is not None and "differs" in wrong.kept
    assert (tmp_path / "w.onnx").read_bytes() == graph.read_bytes()


def test_simplify_of_logits_that_are_not_finite_keeps_the_graph_and_says_so(graph, tmp_path, monkeypatch):
    monkeypatch.setattr(simplify, "compare", lambda *_: (float("nan"), 0.9))
    done = simplify.simplify(graph, tmp_path / "s.onnx", IMAGES)
    assert "not finite" in str(done.kept) and done.difference is None, "JSON has no NaN"
    assert (tmp_path / "s.onnx").read_bytes() == graph.read_bytes()


def test_simplify_that_crashes_or_hangs_keeps_the_graph(graph, tmp_path, monkeypatch):
    monkeypatch.setattr(simplify, "_CODE", "import os; os.abort()")
    assert "status" in str(simplify.simplify(graph, tmp_path / "a.onnx", IMAGES).kept)
    monkeypatch.setattr(simplify, "_CODE", "import time; time.sleep(60)")
    assert "longer than" in str(simplify.simplify(graph, tmp_path / "b.onnx", IMAGES, seconds=0.5).kept)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes() == graph.read_bytes()


@pytest.mark.parametrize("found", [(float("nan"), 1.0), RuntimeError("cannot load it\nmore")], ids=["nan", "error"])
def test_a_simplified_graph_that_cannot_be_compared_is_not_taken(graph, tmp_path, monkeypatch, found):
    def compare(*_):
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(simplify, "compare", compare)
    done = simplify.simplify(graph, tmp_path / "s.onnx", IMAGES)
    assert done.kept and (tmp_path / "s.onnx").read_bytes() == graph.read_bytes()


def test_gates_are_two_sided_and_fail_without_a_value():
    assert not gates.at_most("miou_drop", 1.0, +1.5)[0].passed  # too good is a bug too
    assert gates.at_most("miou_drop", 1.0, -0.5)[0].passed and gates.at_most("miou_drop", None, -50) == []
    assert gates.no_drop("pruning_drop", 1.0, +5)[0].passed and not gates.no_drop("pruning_drop", 1.0, -1.1)[0].passed
    assert not gates.at_least("min_miou", 40, None)[0].passed


def test_device_scripts_run_alone():
    """No import of ours or of torch, and Python 3.8's syntax."""
    import ast

    from edgeprune.shipped import shipped

    for path in shipped("deploy/on_device").glob("*.py"):
        tree = ast.parse(path.read_text(), feature_version=(3, 8))
        names = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        names |= {(n.module or "").split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        assert not names & {"edgeprune", "torch"}, path
    script = shipped("deploy/on_device") / "check.py"
    done = subprocess.run(["python3", str(script), "--help"], capture_output=True, text=True)
    assert done.returncode == 0 or "numpy" in done.stderr
