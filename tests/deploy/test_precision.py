"""FP16 and INT8 written into graphs: what stays in FP32 and why, and that the masks stay what they were."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgeprune import models
from edgeprune.data.transforms import IMAGENET
from edgeprune.deploy import half, precision
from edgeprune.deploy.export import Shipped, export
from edgeprune.errors import ExportError
from edgeprune.runtime.onnxruntime import OnnxRuntimeEngine

IMAGES = np.random.default_rng(0).integers(0, 255, (3, 32, 64, 3)).astype(np.uint8)


def graph_of(net: nn.Module, folder, logits: bool = False) -> onnx.ModelProto:
    export(Shipped(net.eval(), *IMAGENET, logits), (32, 64), folder / "net.onnx", 20)
    return onnx.load(folder / "net.onnx")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> onnx.ModelProto:
    torch.manual_seed(0)
    net = models.build("streetnet", {"width": 8, "blocks": 1}, None, 5)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.3)
            m.running_var.uniform_(0.5, 2)
    return graph_of(net, tmp_path_factory.mktemp("f32"))


class Loud(nn.Module):
    """Two convolutions with values beyond FP16's range between them, in a graph that is fine otherwise."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.last = nn.Conv2d(4, 5, 3, padding=1)
        nn.init.constant_(self.last.bias, 0.0)
        with torch.no_grad():
            self.up.weight *= 5e5
            self.down.weight /= 5e5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.down(torch.relu(self.up(x)))))


def kinds(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    known = {v.name: v.type.tensor_type.elem_type for v in values}
    return known | {w.name: w.data_type for w in inferred.initializer}


def conv_types(model: onnx.ModelProto) -> set[int]:
    known = kinds(model)
    return {known[name] for n in model.graph.node if n.op_type == "Conv" for name in (n.input[0], n.input[1])}


def agreement(a: onnx.ModelProto, b: onnx.ModelProto, folder) -> float:
    masks = []
    for name, model in (("a", a), ("b", b)):
        onnx.save(model, folder / f"{name}.onnx")
        masks.append(OnnxRuntimeEngine(folder / f"{name}.onnx").predict(IMAGES))
    return float((masks[0] == masks[1]).mean())


def test_every_convolution_is_cast_and_the_ends_stay(model, tmp_path):
    done = precision.mixed(model, IMAGES)
    assert conv_types(done.model) == {TensorProto.FLOAT16} and done.kept == []
    known = kinds(done.model)
    assert (known["image"], known["classes"]) == (TensorProto.UINT8, TensorProto.UINT8)
    assert agreement(model, done.model, tmp_path) == pytest.approx(done.agreement) and done.agreement > 0.995
    casts = [n for n in done.model.graph.node if n.op_type == "Cast"]
    assert len(casts) == sum(n.op_type == "Cast" for n in model.graph.node) + 1  # only behind the normalised image
    halves = sum(w.data_type == TensorProto.FLOAT16 for w in done.model.graph.initializer)
    assert halves >= sum(n.op_type == "Conv" for n in model.graph.node)  # weights are cast here, not in the engine
    assert model.graph.node[4].op_type == "Conv" and conv_types(model) == {
        TensorProto.FLOAT
    }  # what was given is as it was


def test_float_outputs_keep_their_type(tmp_path):
    low = precision.mixed(
        graph_of(models.build("streetnet", {"width": 8, "blocks": 1}, None, 5), tmp_path, True), IMAGES
    )
    assert kinds(low.model)["logits"] == TensorProto.FLOAT


def test_nodes_beyond_the_range_stay_in_f32_and_what_is_between_them_is_not_rounded(tmp_path):
    loud = graph_of(Loud(), tmp_path)
    done = precision.mixed(loud, IMAGES)
    convolutions = [n.name for n in loud.graph.node if n.op_type == "Conv"]
    assert set(convolutions[:2]) <= set(done.kept) and convolutions[2] not in done.kept
    assert done.limit == precision.LARGEST / 2 and done.agreement > 0.99
    assert conv_types(done.model) == {TensorProto.FLOAT, TensorProto.FLOAT16}
    assert agreement(loud, half.to_float16(loud), tmp_path) < 0.9  # so the test can fail


def test_the_limit_falls_until_the_masks_agree(model, monkeypatch):
    worse = iter([0.5, 0.8, 0.9, 0.999])
    seen = []

    def classes(graph, batch):
        share = 1.0 if graph is None or not seen else next(worse)
        seen.append(share)
        return [(np.arange(1000) >= share * 1000).astype(np.uint8)] * len(batch)

    monkeypatch.setattr(precision, "_answers", classes)
    monkeypatch.setattr(
        precision, "magnitudes", lambda m, b: {n.name: 10.0 ** (i % 6) for i, n in enumerate(m.graph.node)}
    )
    done = precision.mixed(model, IMAGES)
    assert (done.limit, done.agreement) == (precision.LIMITS[2], pytest.approx(0.999)) and done.kept


class Near(nn.Module):
    """Two classes whose logits lie a thousandth apart, at a height where FP16's steps are wider."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 1)
        with torch.no_grad():
            self.last.weight[1] = self.last.weight[0] + 1e-3 * torch.randn(8, 1, 1)
            self.last.bias.fill_(30.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.body(x)))


def test_classes_that_hang_on_small_differences_are_decided_in_f32(tmp_path):
    near = graph_of(Near(), tmp_path)
    first, last = (n.name for n in near.graph.node if n.op_type == "Conv")
    done = precision.mixed(near, IMAGES)
    assert last in done.kept and first not in done.kept and done.agreement > 0.97
    assert agreement(near, half.to_float16(near), tmp_path) < 0.97  # so the test can fail
    assert precision.deciding(half.named(near)) == set(done.kept)


def test_int8_is_signed_symmetric_and_one_step_a_tensor(model, tmp_path):
    low = precision.quantised(model, IMAGES)
    weights = {w.name: numpy_helper.to_array(w) for w in low.graph.initializer}
    pairs = [n for n in low.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert all(weights[n.input[2]].dtype == np.int8 and not weights[n.input[2]].any() for n in pairs)
    assert all(weights[n.input[1]].ndim == (1 if n.input[0] in weights else 0) for n in pairs)
    makers = {n.output[0]: n.op_type for n in low.graph.node}
    for n in low.graph.node:
        if n.op_type == "Conv":
            assert makers[n.input[0]] == makers[n.input[1]] == "DequantizeLinear"
    both = precision.mixed(low, IMAGES)
    assert TensorProto.FLOAT16 in conv_types(both.model) and set(both.kept) <= precision.deciding(half.named(low))
    assert agreement(model, both.model, tmp_path) > 0.9
    assert conv_types(model) == {TensorProto.FLOAT}


def test_what_cannot_be_done_is_one_line(model):
    for work in (precision.mixed, precision.quantised):
        with pytest.raises(ExportError, match="calibration images"):
            work(model, [])
    branch = helper.make_graph([helper.make_node("Identity", ["x"], ["z"])], "b", [], [_value("z")])
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)], "g",
        [_value("x"), helper.make_tensor_value_info("c", TensorProto.BOOL, [])], [_value("y")],
    )  # fmt: skip
    with pytest.raises(ExportError, match="graph of its own"):
        half.to_float16(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))


def _value(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [2])
