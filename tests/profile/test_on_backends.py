"""Probe graphs and layers in the real runtimes; the explanation of two real engines."""

import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from edgeprune.deploy.export import Shipped, export
from edgeprune.deploy.heads import HEADS
from edgeprune.deploy.scripts import script
from edgeprune.profile import context, probes
from edgeprune.profile.explain import explain
from edgeprune.profile.probes import Key
from edgeprune.profile.profiler import Profiler
from edgeprune.profile.table import Table, Where
from edgeprune.prune.groups import find_groups
from edgeprune.runtime import onnxruntime, openvino, tensorrt_layers, tensorrt_rtx
from edgeprune.runtime.joining import joined
from edgeprune.runtime.signature import Signature

S = Signature("conv", (3, 3), (1, 1), (1, 1), (1, 1), 1, (24, 32))
KEYS = [
    Key(S, 16, 16), Key(S, 64, 64), Key(S, 128, 128), Key(Signature("conv", (3, 3), (1, 1), (2, 2), (2, 2), 1, (24, 32)), 32, 32),
    Key(Signature("conv", (3, 3), (2, 2), (1, 1), (1, 1), 0, (24, 32)), 0, 48),
    Key(Signature("conv", (1, 1), (1, 1), (0, 0), (1, 1), 4, (24, 32)), 8, 32),
    Key(Signature("deconv", (2, 2), (2, 2), (0, 0), (1, 1), 1, (12, 16)), 32, 16),
]  # fmt: skip


@pytest.mark.parametrize(
    ("backend", "precision"), [(openvino, "f32"), (openvino, "bf16"), (openvino, "int8"), (onnxruntime, "f32")]
)
def test_every_probe_is_timed(tmp_path, backend, precision):
    probes.write(KEYS, tmp_path / "p.onnx", precision)
    times, reference = probes.read(KEYS, backend.layers(tmp_path / "p.onnx", precision=precision, runs=3))
    assert set(times) == set(KEYS) and reference > 0
    assert times[KEYS[2]] > times[KEYS[0]], "64 times the work takes longer"


def test_probes_carry_the_signatures_that_were_asked_for(tmp_path):
    probes.write(KEYS, tmp_path / "p.onnx", "f32")
    found = list(context.convolutions(tmp_path / "p.onnx").values())
    assert found[probes._COPIES : -probes._COPIES] == KEYS


@pytest.mark.parametrize(("groups", "width", "step"), [(8, 32, 8), (3, 24, 8), (3, 96, 8), (16, 64, 16)])
def test_convolutions_with_groups_are_measured_at_counts_that_they_can_have(tmp_path, groups, width, step):
    net = nn.Sequential(
        nn.Conv2d(3, width, 1), nn.Conv2d(width, width, 3, padding=1, groups=groups), nn.Conv2d(width, 5, 1)
    )
    graph = find_groups(net, torch.zeros(1, 3, 8, 8))
    where = Where({"cpu": "this"}, "1", "f32")
    layers = partial(openvino.layers, runs=1)
    profiler = Profiler(
        Table(tmp_path / "t.sqlite"), where, lambda path, asked: layers(path, precision=asked), quiet=True
    )
    surfaces = profiler.surfaces(graph.operations, graph.widths(), step)
    (surface,) = (s for signature, s in surfaces.items() if signature.groups == groups)
    assert all(o % groups == 0 for _, o in surface.exact) and max(o for _, o in surface.exact) == width
    assert all(surface.at(width // groups, count) > 0 for count in range(groups, width + 1, groups))


@pytest.mark.skipif(not tensorrt_rtx.installed(), reason="skipped, no TensorRT for RTX here")
@pytest.mark.parametrize("precision", ["f32", "f16", "int8"])
def test_a_strongly_typed_builder_keeps_every_probe_apart(tmp_path, precision):
    """TensorRT itself is not here; TensorRT for RTX shares its builder, and says what it has made of the graph."""
    probes.write(KEYS, tmp_path / "p.onnx", precision, typed=True)
    graph = tmp_path / ("p.onnx" if precision == "f32" else f"p.{precision}.onnx")
    told = tensorrt_layers.read(tensorrt_rtx._plan(graph, "SM89")[1])
    rows = [[layer.name, layer.kind, 0.5, layer.onnx or script("layers").nodes({"Name": layer.name})] for layer in told]
    times, reference = probes.read(KEYS, joined(rows, tmp_path / "p.onnx"))
    assert times == dict.fromkeys(KEYS, 0.5) and reference == 0.5
    kinds = tensorrt_layers.convolutions(told, set(tensorrt_rtx._convolutions(graph)))
    assert kinds.most_common(1)[0][0] == precision


class Small(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.deep = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.grow = nn.Conv2d(width, 2 * width, 3, padding=2, dilation=2)
        self.last = nn.Conv2d(2 * width, 5, 1)

    def forward(self, x):
        return self.last(self.grow(self.deep(self.stem(x)).relu()).relu())


def shipped(tmp_path, width, head="argmax"):
    path = tmp_path / f"{width}-{head}.onnx"
    torch.manual_seed(0)
    export(Shipped(Small(width).eval(), (0.5,) * 3, (0.25,) * 3, head=head), (48, 64), path, 20)
    return path


def test_the_graph_has_the_signatures_of_the_channel_engine(tmp_path):
    graph = find_groups(Small().eval(), torch.zeros(1, 3, 48, 64))
    wanted = [
        Key(op.signature, 0 if op.signature.depthwise else op.inputs.at(graph.widths()), op.outputs.at(graph.widths()))
        for op in graph.operations
        if op.signature is not None and (op.signature.depthwise or op.inputs is not None)
    ]
    assert [op.module for op in graph.operations if op.signature] == ["stem.0", "deep", "grow", "last"]
    assert list(context.convolutions(shipped(tmp_path, 32)).values()) == wanted


def test_an_engines_layers_are_sorted_by_place(tmp_path):
    path = shipped(tmp_path, 32)
    found = context.read(path, openvino.layers(path, precision="f32", runs=3))
    assert sum(len(t) for t in found.convolutions.values()) == 4
    assert found.all_convolutions == pytest.approx(sum(t for ts in found.convolutions.values() for t in ts))
    assert found.around > 0


def test_the_explanation_joins_two_engines(tmp_path):
    paths = shipped(tmp_path, 64), shipped(tmp_path, 24)
    layers = tuple(openvino.layers(p, precision="f32", runs=3) for p in paths)
    told = explain(paths, layers, 16, ["stem.0", "deep", "grow", "last"])
    assert {r["name"] for r in told["rows"]} == {"stem.0", "deep", "grow", "last"}
    for r in told["rows"]:
        assert r["macs"][1] < r["macs"][0] and r["promised"] > 0 and r["why"]
        assert r["saved"] == pytest.approx(r["ms"][0] - r["ms"][1])
    assert len(told["other"]) == 2


def test_reasons():
    from edgeprune.profile.explain import _why

    big = Signature("conv", (3, 3), (1, 1), (1, 1), (1, 1), 1, (64, 128))
    thin = Signature("conv", (1, 1), (1, 1), (0, 0), (1, 1), 1, (64, 128))
    assert _why(Key(big, 64, 64), Key(big, 64, 64), 1, 0, 0, 16, 4) == "not pruned"
    assert _why(Key(big, 64, 64), Key(big, 32, 64), 0.5, 0.5, 0.45, 16, 4) == "kept its promise"
    assert _why(Key(big, 64, 64), Key(big, 64, 50), 0.9, 0.2, 0.0, 16, 4).startswith("unaligned: 50")
    assert _why(Key(thin, 64, 64), Key(thin, 16, 16), 0.3, 0.5, 0.1, 16, 4) == "memory-bound"
    assert _why(Key(big, 64, 64), Key(big, 48, 48), 0.9, 0.4, 0.1, 16, 4).startswith("narrow")
    assert _why(Key(big, 64, 64), Key(big, 48, 48), 0.01, 0.4, 0.1, 16, 4) == "launch-bound"


def test_heads_agree_ties_included(tmp_path):
    logits = torch.randint(-3, 3, (2, 7, 9, 11)).float()
    assert torch.equal(HEADS["argmax"](logits), HEADS["chain"](logits))
    images = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3)).astype(np.uint8)
    masks = [onnxruntime.OnnxRuntimeEngine(shipped(tmp_path, 16, head)).predict(images) for head in HEADS]
    assert np.array_equal(*masks)


def test_a_signal_after_engines_have_gone_kills_nobody(tmp_path):
    """Each OpenVINO Core that ends takes a signal stack with it; a handler of Python's then had nowhere to run."""
    probes.write(KEYS[:2], tmp_path / "p.onnx", "f32")
    code = (
        "import gc, signal, sys; from pathlib import Path; from edgeprune.runtime import openvino\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('handled', flush=True))\n"
        "path = Path(sys.argv[1]); kept = [openvino.OpenVINOEngine(path, 'CPU', 'f32', 1) for _ in range(3)]\n"
        "while kept: kept.pop(0); gc.collect()\n"
        "openvino.layers(path, precision='f32', runs=1); gc.collect()\n"
        "signal.raise_signal(signal.SIGUSR1)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "p.onnx")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
