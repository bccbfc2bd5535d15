import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeprune.deploy.culprit import first_wrong


def lstm(outputs):
    """An LSTM that leaves inputs and outputs out, and what reads it."""
    arrays = {"w": (1, 8, 3), "r": (1, 8, 2), "h": (1, 1, 2)}
    constants = [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in arrays.items()]
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r", "", "", "h"], outputs, "lstm", hidden_size=2),
        helper.make_node("Relu", [outputs[0] or outputs[1]], ["z"], "relu"),
    ]
    x, z = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xz")
    x.type.tensor_type.CopyFrom(helper.make_tensor_type_proto(TensorProto.FLOAT, [4, 1, 3]).tensor_type)
    graph = helper.make_graph(nodes, "g", [x], [z], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


@pytest.mark.parametrize(("outputs", "found"), [(["y", "", "c"], "lstm"), (["", "h2"], "relu")])
def test_what_an_operator_leaves_out_is_no_value(outputs, found):
    asked = []

    def correct(part: onnx.ModelProto) -> bool:
        asked.append(part)
        assert len(asked) < 9
        return False

    assert first_wrong(lstm(outputs), correct).name == found


def test_only_what_the_first_output_hangs_on_is_blamed():
    """A class map behind the logits may agree by chance, or differ by its rounding."""
    nodes = [helper.make_node("Relu", ["x"], ["y"], "wrong"), helper.make_node("Abs", ["y"], ["logits"], "logits")]
    nodes += [helper.make_node("Floor", ["logits"], ["map"], "map")]
    x, logits, classes = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3]) for n in ("x", "logits", "map"))
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [logits, classes]))
    assert first_wrong(model, lambda part: part.graph.output[0].name == "map").name == "wrong"
