from pathlib import Path

import pytest
import torch
from torch import nn

from edgeprune import models
from edgeprune.models.outputs import Choice, carry
from edgeprune.recipe import Train
from edgeprune.train import memory
from edgeprune.train.imitate import imitate
from edgeprune.train.loop import Hooks, train
from edgeprune.train.losses import make_loss
from edgeprune.train.memory import checkpointed, image_layout, why_not_nhwc
from tests.models.several_outputs import Fields


class Batches:
    """Four fixed batches of images (4, 3, 32, 64) and labels."""

    per_epoch = 4
    data = [(None, torch.zeros(32, 64, dtype=torch.uint8).numpy())]

    def stream(self, first: int = 0, rank: int = 0, world: int = 1):
        draw = torch.Generator().manual_seed(5)
        while True:
            yield torch.randn(4, 3, 32, 64, generator=draw), torch.randint(0, 5, (4, 32, 64), generator=draw)


def trained(home: Path, **change) -> tuple[dict[str, torch.Tensor], list[float]]:
    torch.manual_seed(0)
    net = models.build("streetnet", {}, None, 5)
    cfg = Train.model_validate({"steps": 4, "batch": 4, "lr": 0.003, "momentum": 0.9, **change})
    hooks = Hooks()
    train(net, Batches(), cfg, home, loss=make_loss(cfg.loss, None), seed=0, title="t", hooks=hooks)
    return net.state_dict(), [note["loss"] for note in hooks.history]


@pytest.mark.parametrize("change", [{"channels_last": False}, {"checkpoint_blocks": True}], ids=str)
def test_same_training_however_it_lies_in_memory(tmp_path: Path, change: dict):
    usual, losses = trained(tmp_path / "a")
    found, again = trained(tmp_path / "b", **change)
    assert losses == pytest.approx(again, rel=1e-2)
    for name, value in usual.items():
        torch.testing.assert_close(found[name], value, rtol=2e-2, atol=2e-3, msg=lambda m, n=name: f"{n}: {m}")
        assert found[name].is_contiguous()


def test_checkpointing_keeps_less_for_the_gradient():
    net = models.build("deeplabv3", {"depth": 18}, None, 5).train()
    image = torch.randn(2, 3, 64, 64)

    def kept(on: bool) -> int:
        total = 0

        def pack(t: torch.Tensor) -> torch.Tensor:
            nonlocal total
            total += t.numel() * t.element_size()
            return t

        with checkpointed(net, on), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            models.logits_of(net(image))
        return total

    assert kept(True) < 0.6 * kept(False)
    assert all("forward" not in m.__dict__ for m in net.modules())


def test_recomputed_norms_move_once_and_plain_evaluation_is_untouched():
    block = nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)))
    inner = nn.Sequential(_Block(block[0]))
    x = torch.randn(4, 3, 5, 5) + 3
    norm = block[0][1]
    with checkpointed(inner):
        inner.train()(x).sum().backward()
    once = norm.running_mean.clone()
    assert norm.num_batches_tracked == 1 and norm.momentum == 0.1
    torch.testing.assert_close(once, 0.1 * block[0][0](x).mean((0, 2, 3)))
    with checkpointed(inner), torch.no_grad():
        inner.train()(x)
    assert norm.num_batches_tracked == 2


class _Block(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


def test_a_criterion_in_training_refuses_to_see_maps_twice():
    from edgeprune.compatible import check_pair
    from edgeprune.errors import RecipeError
    from edgeprune.recipe import load_recipe
    from edgeprune.target import load_target

    sets = ["prune.method=cap", "prune.sparsity.steps=5", "prune.sparsity.checkpoint_blocks=true"]
    with pytest.raises(RecipeError, match=r"prune.sparsity.checkpoint_blocks: .*only train and finetune"):
        check_pair(load_recipe("quickstart", sets), load_target("cpu"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="skipped, a fault of CPUs only")
@pytest.mark.parametrize(("channels", "stride", "broken"), [(6, 2, True), (32, 2, False), (6, 1, False)])
def test_narrow_strided_projections_do_not_lie_in_nhwc(channels: int, stride: int, broken: bool):
    """oneDNN would write beyond the memory of their kernels' gradient."""
    net = nn.Sequential(nn.Conv2d(3, channels, 3), nn.Conv2d(channels, 14, 1, stride))
    assert (image_layout(True, net) == torch.contiguous_format) is broken
    assert image_layout(False, net) == torch.contiguous_format


class Rows(nn.Module):
    """Takes a map as one row, which only NCHW lets it do."""

    def __init__(self):
        super().__init__()
        self.a, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 5, 1)

    def forward(self, x):
        y = self.a(x)
        return self.c(y * y.view(len(y), 8, -1).view(len(y), -1).mean(1)[:, None, None, None].sigmoid())


class Strided(nn.Conv2d):
    """Reads memory as if it were NCHW: other answers, and no error."""

    def forward(self, x):
        return super().forward(torch.as_strided(x, x.shape, (x[0].numel(), x[0, 0].numel(), x.shape[3], 1)))


class StridedFields(Strided):
    def forward(self, x):
        y = super().forward(x)
        return Fields(y, y)


def test_where_nhwc_breaks_a_network_it_is_trained_in_nchw_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    weights = []
    for channels_last in (True, False):
        torch.manual_seed(0)
        net = Rows()
        cfg = Train.model_validate({"steps": 2, "batch": 4, "channels_last": channels_last})
        home = tmp_path / str(channels_last)
        train(net, Batches(), cfg, home, loss=make_loss(cfg.loss, None), seed=0, title="t", hooks=Hooks())
        weights.append(net.state_dict())
        told = " ".join(capsys.readouterr().err.split())
        assert ("trained in NCHW: the network does not run in NHWC (RuntimeError: view size" in told) is channels_last
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_other_answers_in_nhwc_are_noticed_without_an_error():
    images = torch.randn(2, 3, 16, 16)
    assert "answers differ" in str(why_not_nhwc(Strided(3, 5, 1), images))
    assert "answers differ" in str(why_not_nhwc(StridedFields(3, 5, 1), images))
    assert why_not_nhwc(nn.Conv2d(3, 5, 3), images) is None
    assert why_not_nhwc(nn.Conv2d(4, 5, 3), images) is None, "what runs in neither layout is not NHWC's fault"


def test_the_trial_in_nhwc_is_seen_by_no_hook_and_moves_nothing():
    net, seen = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), []
    net[0].register_forward_hook(lambda *args: seen.append(args))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    assert (
        image_layout(True, net, torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
        == torch.channels_last
    )
    assert not seen and torch.equal(torch.get_rng_state(), state)
    with pytest.MonkeyPatch.context() as patch:  # the choice of what ships is no onlooker
        patch.setattr(Choice, "__call__", lambda self, net, args, output: seen.append(output))
        why_not_nhwc(carry(net, Choice("", "")), torch.randn(2, 3, 16, 16))
    assert seen
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
    ids=lambda e: type(e).__name__,
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_memory_that_runs_out_is_no_reason_against_a_layout(error: Exception, layout: torch.memory_format):
    class Large(nn.Conv2d):
        def forward(self, x):
            if x.is_contiguous(memory_format=layout):
                raise error
            return super().forward(x)

    with pytest.raises(type(error)):
        why_not_nhwc(Large(3, 5, 3), torch.randn(2, 3, 16, 16))


def test_a_training_starts_its_loader_once_and_sees_the_first_batch(tmp_path: Path):
    class Counted(Batches):
        starts = 0

        def stream(self, first: int = 0, rank: int = 0, world: int = 1):
            self.starts += 1
            for number, batch in enumerate(super().stream()):
                yield batch if number else (torch.full_like(batch[0], 7.0), batch[1])

    batches, seen = Counted(), []
    net = nn.Sequential(nn.Conv2d(3, 5, 1))
    hooks = Hooks(distill=lambda *_: (lambda images, *_: seen.append(float(images.mean())) or torch.zeros(()), None))
    cfg = Train.model_validate({"steps": 1, "batch": 4})
    train(net, batches, cfg, tmp_path, loss=make_loss(cfg.loss, None), seed=0, title="t", hooks=hooks)
    assert batches.starts == 1 and seen == [7.0]


def test_a_network_is_tried_in_nhwc_once_for_all_that_imitate_it(monkeypatch: pytest.MonkeyPatch):
    tried = []
    monkeypatch.setattr("edgeprune.train.memory.why_not_nhwc", lambda net, images: tried.append(net) or "it says so")
    teacher = nn.Sequential(nn.Conv2d(3, 5, 1))
    laid = []
    for _ in range(3):
        student = nn.Sequential(nn.Conv2d(3, 5, 1))
        student.register_forward_pre_hook(lambda m, args: laid.append(args[0].is_contiguous()))
        imitate(student, teacher, Batches().stream(), 1, Train.model_validate({"steps": 1, "batch": 4}))
    assert tried == [teacher] and laid == [True] * 3


def test_what_onednn_would_break_is_not_even_tried_in_nhwc(monkeypatch):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 1, stride=2))  # few channels into a strided 1x1
    monkeypatch.setattr(memory, "_learnt", lambda *args: pytest.fail("its gradient in NHWC ends the process"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert memory.why_not_nhwc(net, torch.randn(2, 3, 16, 16)) is None
