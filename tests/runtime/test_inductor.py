"""PyTorch's own compiler: one engine really compiled on the CPU, and that nothing but what was compiled here is loaded."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
import torch._inductor.config
from torch import nn

from edgeprune import pipeline
from edgeprune.compatible import check_pair
from edgeprune.data.transforms import IMAGENET
from edgeprune.deploy.export import Shipped, program
from edgeprune.errors import DeviceError, EngineError, ExportError, RecipeError
from edgeprune.recipe import load_recipe
from edgeprune.runtime import inductor
from edgeprune.target import load_target
from tests.runtime.graphs import IMAGES, SIZE

needs_compiler = pytest.mark.skipif(inductor.why_not("cpu") is not None, reason="skipped, no C++ compiler")


class Two(nn.Module):
    """Two convolutions: compiling takes its seconds whatever the network."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


SHIPPED = Shipped(Two(), *IMAGENET)


@needs_compiler
def test_an_engine_agrees_with_pytorch_and_is_loaded_only_as_it_was_compiled(tmp_path):
    quick = {"aot_inductor.compile_wrapper_opt_level": "O0", "aot_inductor.precompile_headers": False}
    with torch._inductor.config.patch(quick):  # half the time, for what is run once
        made = inductor.package(program(SHIPPED, SIZE, "f32", "cpu"), tmp_path, precision="f32", threads=1)
    engine = inductor.InductorEngine(made)
    with torch.no_grad():
        wanted = torch.cat([SHIPPED(torch.from_numpy(image[None])) for image in IMAGES]).numpy()
    assert len(np.unique(wanted)) > 2 and (engine.predict(IMAGES) == wanted).mean() > 0.9999
    np.testing.assert_array_equal(engine.bind(IMAGES[1:2])(), engine.predict(IMAGES[1:2]))
    assert engine.precision == "f32" and torch.__version__ in engine.backend and engine.path.suffix == ".pt2"

    other = tmp_path / "other.pt2"
    shutil.copyfile(made.path, other)
    with open(other, "r+b") as handle:  # one byte of what would run as code
        handle.seek(other.stat().st_size // 2)
        byte = handle.read(1)
        handle.seek(-1, 1)
        handle.write(bytes([byte[0] ^ 1]))
    with pytest.raises(EngineError, match="is code and is not loaded"):
        inductor.InductorEngine(dataclasses.replace(made, path=other))


@pytest.mark.parametrize(("precision", "kind"), [("f32", "f32"), ("bf16", "bf16"), ("f16", "f16")])
def test_the_precision_is_in_the_program_and_its_ends_stay(precision, kind):
    made = program(SHIPPED, SIZE, precision, "cpu")
    assert inductor._convolutions(made) == {kind: 2}
    out = made.graph_signature.user_outputs[0]
    node = next(n for n in made.graph.nodes if n.name == out)
    assert node.meta["val"].dtype == torch.uint8
    assert next(SHIPPED.net.parameters()).dtype == torch.float32  # what was given is as it was


def test_another_precision_than_asked_for_is_refused(tmp_path):
    with pytest.raises(ExportError, match="f32, f16, bf16, not int8"):
        program(SHIPPED, SIZE, "int8", "cpu")
    if inductor.why_not("cpu") is None:
        with pytest.raises(EngineError, match="bf16 was asked for.*run at f32"):
            inductor.package(program(SHIPPED, SIZE, "f32", "cpu"), tmp_path, precision="bf16")


def test_what_is_missing_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no-such-compiler is not found" in str(inductor.why_not("cpu"))
    with pytest.raises(EngineError, match="C\\+\\+ compiler"):
        inductor.package(None, tmp_path, precision="f32")
    monkeypatch.setenv("CXX", "true")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert inductor.why_not("cuda") == "PyTorch finds no CUDA GPU here" and inductor.why_not("cpu") is None


def test_a_gpu_that_is_not_here_ends_the_run_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CXX", "true")
    with pytest.raises(DeviceError, match="cuda-inductor: PyTorch finds no CUDA GPU here; its engines are code"):
        pipeline.run(load_recipe("quickstart"), load_target("cuda-inductor"), tmp_path)
    assert list(tmp_path.rglob("*.safetensors")) == []


def test_budgets_and_hosts_that_cannot_be():
    target = load_target("cpu-inductor")
    with pytest.raises(RecipeError, match="no times by layer"):
        check_pair(load_recipe("quickstart", ["budget.latency=0.5x"]), target)
    with pytest.raises(RecipeError, match="this machine only"):
        check_pair(load_recipe("quickstart"), target.model_copy(update={"host": "me@board"}))
