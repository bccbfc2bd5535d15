"""torch-tensorrt's route up to the engine's bytes, by a stand-in of its signature; and what is refused before anything runs."""

import logging
import sys
import types

import onnx
import pytest
import torch

from edgeprune import compatible
from edgeprune.compatible import check_pair
from edgeprune.deploy.export import WIDE, Shipped, program
from edgeprune.errors import EngineError, RecipeError
from edgeprune.recipe import load_recipe
from edgeprune.runtime import torch_tensorrt
from edgeprune.target import load_target
from tests.runtime import fake_torch_tensorrt
from tests.runtime.graphs import IMAGES, network

ROUTE = "deploy.route=torch_tensorrt"


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(torch_tensorrt, "installed", lambda: True)
    monkeypatch.setitem(sys.modules, "torch_tensorrt", types.ModuleType("torch_tensorrt"))
    monkeypatch.setitem(sys.modules, "torch_tensorrt.dynamo", fake_torch_tensorrt)


@pytest.fixture(scope="module")
def shipped() -> Shipped:
    return Shipped(network(), (0.5,) * 3, (0.25,) * 3)


@pytest.mark.parametrize("precision", ["f32", "f16"])
def test_an_engine_has_wide_ends_and_the_precision_inside(installed, shipped, precision):
    size = IMAGES.shape[1:3]
    made = program(shipped, size, precision, "cpu", WIDE)
    plan = torch_tensorrt.engine(made)
    graph = onnx.load_from_string(plan).graph
    ends = [v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)]
    assert ends == [onnx.TensorProto.FLOAT, onnx.TensorProto.INT32]
    kind = {"f32": onnx.TensorProto.FLOAT, "f16": onnx.TensorProto.FLOAT16}[precision]
    weights = {i.name: i.data_type for i in graph.initializer}
    assert {weights[n.input[1]] for n in graph.node if n.op_type == "Conv"} == {kind}
    image = torch.from_numpy(IMAGES[:1])
    if precision == "f32":
        assert torch.equal(made.module()(image.float()).to(torch.uint8), shipped(image)), "the classes are others"
    assert shipped.kind == torch.uint8 and shipped(image).dtype == torch.uint8, "what ships by ONNX was changed"


def test_what_cannot_be_built_is_one_line_and_leaves_logging_alone(installed, shipped, monkeypatch):
    before = logging.root.handlers[:], logging.root.level, logging.root.manager.disable
    size = IMAGES.shape[1:3]
    with pytest.raises(EngineError, match=r"no converter for torch\.ops\.aten\._to_copy\.default$"):
        torch_tensorrt.engine(program(shipped, size, "f32", "cpu"))  # as it ships by ONNX: bytes
    made = program(shipped, size, "f32", "cpu", WIDE)

    def fails(*args, **kwargs):
        logging.root.addHandler(logging.NullHandler())
        raise RuntimeError("While interpreting the module got an error: …") from ValueError("out of memory\nmore")

    monkeypatch.setattr(fake_torch_tensorrt, "convert_exported_program_to_serialized_trt_engine", fails)
    with pytest.raises(EngineError, match=r": out of memory$"):
        torch_tensorrt.engine(made)
    assert (logging.root.handlers, logging.root.level, logging.root.manager.disable) == before


def test_without_the_package_nothing_is_begun(monkeypatch):
    monkeypatch.setattr(torch_tensorrt, "installed", lambda: False)
    with pytest.raises(RecipeError, match=r"^deploy\.route: torch_tensorrt.*pip install torch-tensorrt"):
        check_pair(load_recipe("quickstart", [ROUTE]), load_target("tensorrt"))
    with pytest.raises(EngineError, match="pip install torch-tensorrt"):
        torch_tensorrt.engine(None)


@pytest.mark.parametrize(
    ("target", "more", "said"),
    [
        ("cpu", [], r"not of cpu \(openvino\)"),
        ("rtx4090", [], r"not of rtx4090 \(tensorrt_rtx\)"),
        ("tensorrt", ["budget.latency=0.5x"], "budget.latency"),
        ("tensorrt", ["deploy.precision=int8"], "f32 and f16, not int8"),
        ("tensorrt", ["deploy.head=coarse"], "deploy.head: coarse"),
        ("tensorrt", ["deploy.logits=true"], "deploy.logits"),
        ("tensorrt", [], "no GPU today"),
    ],
)
def test_what_the_route_is_not_for_is_refused(monkeypatch, target, more, said):
    monkeypatch.setattr(torch_tensorrt, "installed", lambda: True)
    monkeypatch.setattr(compatible, "device_of", lambda t: types.SimpleNamespace(why_not=lambda: "no GPU today"))
    with pytest.raises(RecipeError, match=said) as fault:
        check_pair(load_recipe("quickstart", [ROUTE, *more]), load_target(target))
    assert "\n" not in str(fault.value)


def test_over_ssh_it_is_refused(monkeypatch):
    monkeypatch.setattr(torch_tensorrt, "installed", lambda: True)
    target = load_target("tensorrt").model_copy(update={"host": "me@board"})
    with pytest.raises(RecipeError, match="not over ssh"):
        check_pair(load_recipe("quickstart", [ROUTE]), target)
