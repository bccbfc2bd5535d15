"""Graphs that TensorRT 8 would misread are refused on the device, which has no ONNX package to read them with."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import trt
import trt_build

from tests.on_device import graphs
from tests.on_device.fake_tensorrt import FLAGS_ONLY, FLOAT, VERSIONS

pytestmark = pytest.mark.usefixtures("cuda")


def reducing(home: Path, kind: str, axes: str) -> Path:
    """A graph whose classes come of a reduction, with axes as an input or without any."""
    path = graphs.write(home, typed=False)
    model = onnx.load(path)
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in model.graph.node]
    last = nodes[-3].output[0]
    nodes[-2:-2] = [
        onnx.helper.make_node(kind, [last, axes] if axes else [last], ["least"], name="node_odd"),
        onnx.helper.make_node("Add", [last, "least"], ["moved"]),
    ]
    nodes[-2].input[0] = "moved"
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1], np.int64), "axes"))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("version", VERSIONS)
def test_axes_that_tensorrt_8_does_not_read_are_refused_there(use, tmp_path, version):
    fake, graph = use(version, FLOAT), str(reducing(tmp_path, "ReduceMax", "axes"))
    if version in FLAGS_ONLY:
        with pytest.raises(ValueError, match=r"the axes of node_odd \(ReduceMax\) in pruned.onnx") as fault:
            trt.TensorRT(graph, "f32")
        assert "\n" not in str(fault.value) and "JetPack 6.1" in str(fault.value) and fake.builds == 0
    else:
        assert trt.TensorRT(graph, "f32").built


@pytest.mark.parametrize(("kind", "axes"), [("ReduceSum", "axes"), ("ReduceMax", "")])
def test_reductions_that_tensorrt_8_reads_are_built(use, tmp_path, kind, axes):
    use("8.5.3.1")
    assert trt.TensorRT(str(reducing(tmp_path, kind, axes)), "f16").built


def test_nodes_are_read_without_the_onnx_package(graph):
    nodes, content = onnx.load(graph).graph.node, graph.read_bytes()
    assert trt_build.read_nodes(content) == [(n.op_type, n.name, list(n.input)) for n in nodes]
    for end in range(0, len(content), 37):  # damaged files are the parser's to refuse
        assert len(trt_build.read_nodes(content[:end])) <= len(nodes)
    assert trt_build.read_nodes(b"bad graph") == []
