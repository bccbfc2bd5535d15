"""Times by layer of fused engines, joined to the graph: against names that real TensorRT engines have."""

import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from edgeprune.deploy.scripts import script
from edgeprune.runtime.joining import joined

RECORDED = json.loads((Path(__file__).parents[1] / "on_device" / "recorded" / "layers.json").read_text())


def graph(home: Path, convolutions: list[str]) -> Path:
    """A graph with convolutions of these names, and a Relu behind each."""
    nodes = []
    for name in convolutions:
        kind = "ConvTranspose" if name.startswith("ConvTranspose") or name == "node_convolution" else "Conv"
        nodes += [helper.make_node(kind, ["x", "w"], [name], name=name)]
        nodes += [helper.make_node("Relu", [name], [f"{name} y"], name=f"{name}_relu")]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 8, 8])
    onnx.save(helper.make_model(helper.make_graph(nodes, "names", [x], [])), home / "names.onnx")
    return home / "names.onnx"


@pytest.mark.parametrize("kind", [k for k in RECORDED if k != "sources"])
def test_layers_get_the_graphs_names(tmp_path, kind):
    told, layers = RECORDED[kind], script("layers")
    rows = layers.timed(layers.read(json.dumps({"Layers": told["Layers"]})), told["times"])
    found = joined(rows, graph(tmp_path, told["convolutions"]))
    assert [[layer.name, layer.kind] for layer in found] == told["joined"]
    assert [layer.ms for layer in found] == [ms for _, ms in told["times"]]


def test_a_convolution_of_several_kernels_has_the_time_of_all(tmp_path):
    rows = [
        ["a_0", "correlation", 0.25, ["a"]],
        ["pool", "Pooling", 1.0, ["pool"]],
        ["a_1", "correlation", 0.5, ["a", "b"]],
    ]
    found = joined(rows, graph(tmp_path, ["a"]))
    assert [tuple(layer) for layer in found] == [("pool", "Pooling", 1.0), ("a", "Convolution", 0.75)]


def test_a_generated_kernel_counts_where_nothing_else_computes_the_convolution(tmp_path):
    found = joined([["k", "kgen", 0.5, ["a"]]], graph(tmp_path, ["a"]))
    assert [tuple(layer) for layer in found] == [("a", "Convolution", 0.5)]


def test_names_that_are_the_graphs_own_stay():
    assert joined([["a", "Convolution", 0.5]], Path("nowhere.onnx"))[0].name == "a"
