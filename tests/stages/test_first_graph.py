"""The graph that ships is made before anything is trained: what lacks an operator is named, and where it stands."""

import pytest
import torch

from edgeprune.errors import ExportError
from edgeprune.stages import first_graph, fits
from edgeprune.stages.first_graph import Shipping
from edgeprune.target import load_target
from tests.stages import unusual

X, CLASSES = torch.zeros(1, 3, 32, 48), ["a", "b", "c", "d", "e"]
WITHOUT = Shipping(simplify=False)  # a process of its own


@pytest.fixture(autouse=True)
def nothing_else(monkeypatch):
    monkeypatch.setattr(fits.rehearsal, "STEPS", ())
    monkeypatch.setattr(fits, "rehearse", lambda net, graph, example: None)


def check(net, shipping=WITHOUT):
    return fits.check(net, X, "segmentation", CLASSES, (), fits.Wanted(shipping=shipping))


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (
            unusual.Median,
            r"PyTorch cannot export .*has no ONNX for the operator aten\.median \(unusual\.py, line \d+\)",
        ),
        (unusual.Fourier, r"openvino .* operator aten\._fft_r2c \(unusual\.py, line \d+\).*does not take the graph"),
        (unusual.Antialiased, r"openvino .* operator aten\._upsample_bicubic2d_aa .*answers otherwise than PyTorch"),
    ],
)
def test_an_operator_that_is_lacking_or_wrong_is_named(kind, line):
    with pytest.raises(ExportError, match=line) as refused:
        check(kind())
    assert "\n" not in str(refused.value)


def test_another_target_takes_what_openvino_gets_wrong():
    check(
        unusual.Antialiased(),
        Shipping(load_target("cpu").model_copy(update={"backend": "onnxruntime"}), simplify=False),
    )


@pytest.mark.parametrize("kind", [unusual.Viewed, unusual.MasksAClass])
def test_an_unusual_network_ships(kind):
    check(kind())


def test_a_graph_that_has_passed_is_remembered(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEPRUNE_TABLE", str(tmp_path / "latency.sqlite"))
    check(unusual.Plain(), Shipping())
    monkeypatch.setattr(first_graph, "export", lambda *args: pytest.fail("again"))
    check(unusual.Plain(), Shipping())
    with pytest.raises(pytest.fail.Exception):
        check(unusual.Plain(), WITHOUT)
