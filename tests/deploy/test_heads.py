"""Ways from logits to classes: which are equal, which pass, and which ships."""

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgeprune.deploy.export import Shipped, export
from edgeprune.deploy.heads import HEADS, fastest, strides
from edgeprune.errors import ExportError
from edgeprune.measure.miou import evaluate
from edgeprune.recipe import Gates
from edgeprune.runtime.onnxruntime import OnnxRuntimeEngine
from edgeprune.stages import heads


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 8, 1), nn.ReLU(), nn.Conv2d(8, 5, 1)).eval()


def test_the_exact_heads_agree_ties_included():
    logits = torch.randn(2, 5, 7, 9).mul(2).round()
    assert torch.equal(HEADS["argmax"](logits), HEADS["chain"](logits))


def test_the_coarse_head_ships_without_a_resize_of_logits(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3)).astype(np.uint8)
    for logits in (False, True):
        export(Shipped(net(), (0.5,) * 3, (0.25,) * 3, logits, "coarse"), (32, 48), tmp_path / "c.onnx", 18)
        nodes = onnx.load(tmp_path / "c.onnx").graph.node
        modes = [a.s for n in nodes if n.op_type == "Resize" for a in n.attribute if a.name == "mode"]
        assert modes.count(b"nearest") == 1 and len(modes) == (2 if logits else 1)
        x = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
        with torch.no_grad():
            wanted = net()(x).argmax(1).repeat_interleave(8, 1).repeat_interleave(8, 2)
        found = OnnxRuntimeEngine(tmp_path / "c.onnx").predict(images)
        assert (found == wanted.numpy()).mean() > 0.999
        assert strides(tmp_path / "c.onnx", (32, 48)) == (8, 8)


@pytest.mark.parametrize(("times", "best"), [((3, 2, 1), "c"), ((1, 2, 3), "a"), ((2, 1, 3), "b"), ((1, 1, 1), "a")])
def test_the_fastest_ships_and_the_first_in_doubt(times, best):
    ms = dict(zip("abc", times, strict=True))
    assert fastest("abc", lambda a, b: ms[b] < ms[a]) == best


@pytest.mark.parametrize(("agreement", "passes"), [(0.999, False), (0.5, True)])
def test_the_coarse_head_is_tried_only_where_its_masks_pass(agreement, passes):
    random = np.random.default_rng(1)
    masks = [np.kron(random.integers(0, 3, (4, 6)), np.ones((8, 8), int)).astype(np.uint8) for _ in range(4)]
    data = SimpleNamespace(classes=list("abc"))
    held = [(np.repeat(m[..., None], 3, 2), m) for m in masks]
    full = type("Set", (), {"classes": data.classes, "__len__": lambda s: 4, "__getitem__": lambda s, i: held[i]})()

    def blurred(images):
        found = images[..., 0].copy()
        found[:, 4:12, :] = 0  # about a fifth of the pixels
        return found

    limits = Gates(miou_drop=None, class_drop=None, boundary_drop=None, pixel_agreement=agreement)
    a, b = evaluate(lambda images: images[..., 0], full), evaluate(blurred, full)
    assert heads.coarse_passes(a, b, data.classes, limits) is passes


def test_a_network_at_full_resolution_has_no_coarse_head(tmp_path):
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Conv2d(3, 5, 3, 1, 1)).eval()
    with pytest.raises(ExportError, match="coarse saves nothing here"):
        export(Shipped(wide, (0.5,) * 3, (0.25,) * 3, head="coarse"), (32, 48), tmp_path / "w.onnx", 18)
    assert not (tmp_path / "w.onnx").exists()
