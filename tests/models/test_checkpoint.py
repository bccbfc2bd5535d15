"""Files as trainers write them: which of the weights in them is taken, what is put together, and what is refused in one line."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from edgeprune import models
from edgeprune.errors import CheckpointError, EdgepruneError, RecipeError
from edgeprune.models import checkpoint
from edgeprune.recipe import load_recipe
from tests.models.small import SMALL


def net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 6, 2), nn.Conv2d(6, 2, 1))


PLAIN = net().state_dict()
AVERAGED = {k: v + 1 if v.is_floating_point() else v for k, v in PLAIN.items()}
OTHER = {k: v + 2 if v.is_floating_point() else v for k, v in PLAIN.items()}


def under(prefix: str, tensors: dict) -> dict:
    return {prefix + k: v for k, v in tensors.items()}


def flat(tensors: dict) -> dict:
    """Of parameters alone, under mmcv's names."""
    return {f"ema_{k.replace('.', '_')}": v for k, v in tensors.items() if k in dict(net().named_parameters())}


def loaded(tmp_path: Path, content, key: str | None = None, into: nn.Module | None = None) -> tuple[dict, list[str]]:
    """What the network holds, and what is said, after it was given the file."""
    torch.save(content, tmp_path / "w.pt")
    made = net() if into is None else into
    for value in made.state_dict().values():
        value.fill_(7)
    return made.state_dict(), models.load_checkpoint(made, tmp_path / "w.pt", key=key).notes


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


AVERAGES = {
    "timm": {"state_dict": PLAIN, "state_dict_ema": AVERAGED, "epoch": 3, "arch": "net"},
    "torchvision": {"model": PLAIN, "model_ema": {"n_averaged": torch.tensor(9), **under("module.", AVERAGED)}},
    "RT-DETR": {"model": PLAIN, "ema": {"module": AVERAGED, "updates": 5}},
    "BasicSR": {"params": PLAIN, "params_ema": AVERAGED},
    "ema alone": {"epoch": 3, "ema": AVERAGED},
    "under a number": {"state_dict": PLAIN, "ema": {0.999: AVERAGED}},
    "by prefix": {
        "state_dict": {**under("model.", PLAIN), **under("ema_model.", AVERAGED), "loss.weight": torch.ones(2)}
    },
    "in a callback": {
        "state_dict": under("net.", PLAIN),
        "callbacks": {"EMACallback": {"weights": under("net.", AVERAGED)}},
    },
    "swa": {"net": PLAIN, "swa_model": AVERAGED},
    "Lightning": {
        "state_dict": AVERAGED,
        "current_model_state": PLAIN,
        "averaging_state": {"n_averaged": torch.tensor(1)},
    },
    "mmengine": {"state_dict": AVERAGED, "ema_state_dict": {"steps": torch.tensor(4), **under("module.", PLAIN)}},
}


@pytest.mark.parametrize("trainer", AVERAGES)
def test_the_averaged_weights_are_taken_and_told(tmp_path, trainer):
    held, said = loaded(tmp_path, AVERAGES[trainer])
    assert same(held, AVERAGED)
    assert len(said) == 1 and said[0].startswith("the averaged weights, ")
    assert trainer == "ema alone" or "takes the plain ones" in said[0]


@pytest.mark.parametrize("trainer", [t for t in AVERAGES if t != "ema alone"])
def test_the_key_that_is_told_takes_the_plain_ones(tmp_path, trainer):
    _, (said,) = loaded(tmp_path, AVERAGES[trainer])
    held, said = loaded(tmp_path, AVERAGES[trainer], key=said.partition("checkpoint_key=")[2].split()[0])
    assert same(held, PLAIN) and said == []


SINGLE = {
    "model_state": ({"step": 3, "model_state": PLAIN}, []),
    "wrappers in wrappers": ({"state": {"model": under("module._orig_mod.", PLAIN)}, "epoch": 1}, ["the weights under state.model.module._orig_mod"]),
    "a name that nobody knows": ({"generator_g3": PLAIN, "lr": 0.1}, ["the weights under generator_g3"]),
    "twice the same": ({"model": PLAIN, "model_ema": copy.deepcopy(PLAIN)}, None),
    "beside an optimizer": ({"model": PLAIN, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}, []),
    "beside a loss": ({"state_dict": {**under("model.", PLAIN), "loss.w": torch.ones(3)}}, []),
}  # fmt: skip


@pytest.mark.parametrize("name", SINGLE)
def test_the_only_set_that_fits_is_taken_wherever_it_lies(tmp_path, name):
    content, wanted = SINGLE[name]
    held, said = loaded(tmp_path, content)
    assert same(held, PLAIN) and wanted in (None, said)


def test_dicts_that_refer_to_each_other(tmp_path):
    """They are looked into once, or refused where there are more ways through them than in any file."""
    around: dict[str, Any] = {"state_dict": PLAIN, "same": PLAIN}
    around |= {f"self{n}": around for n in range(12)}
    assert same(loaded(tmp_path, around)[0], PLAIN)
    assert same(loaded(tmp_path, around, "same")[0], PLAIN)
    ring: list[dict[str, Any]] = [{"w": torch.ones(1)} for _ in range(12)]
    for one in ring:
        one |= {str(n): other for n, other in enumerate(ring)}
    with pytest.raises(CheckpointError, match="more than 10,000 dicts inside each other"):
        loaded(tmp_path, ring[0])


REFUSED = {
    "best and last": ({"best": PLAIN, "last": OTHER}, "2 sets of weights fit the network: best, last; say which"),
    "student and teacher": (
        {**under("student.", PLAIN), **under("teacher.", OTHER)},
        "student, teacher; say which, such as model.checkpoint_key=student",
    ),
    "average among three": ({"model": PLAIN, "ema_model": AVERAGED, "last": OTHER}, "3 sets of weights"),
    "averages without statistics": (
        {"model": PLAIN, "ema": {k: v for k, v in AVERAGED.items() if "running" not in k}},
        r"beside the weights that fit the network \(model\) lie averaged ones \(ema\) that do not fit it",
    ),
    "averages without names": ({"model": PLAIN, "ema": {"shadow_params": list(AVERAGED.values())}}, "lie averaged ones"),
    "mmcv": ({"state_dict": {**PLAIN, **flat(OTHER)}}, r"averaged ones \(state_dict\.ema_\*\).*checkpoint_key=state_dict "),
    "another network under a wrapper": (
        {"epoch": 1, "my_net": {"a.p": torch.ones(2), "a.q": torch.ones(2)}, "optimizer": {"m": torch.ones(1)}},
        r"\(my_net\).* the file holds a\.p, a\.q",
    ),
    "parameters alone": (dict(net().named_parameters()), "2 weights are missing, .*; buffers were not saved"),
    "nothing": ({"epoch": 3, "lr": 0.1}, "epoch is int, not a named tensor"),
    "adapters": ({**PLAIN, "0.lora_A.weight": torch.ones(2, 2)}, "adapters"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_told_is_asked(tmp_path, name):
    content, said = REFUSED[name]
    with pytest.raises(CheckpointError, match=said) as fault:
        loaded(tmp_path, content)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize(
    ("name", "key"), [("best and last", "best"), ("student and teacher", "student"), ("mmcv", "state_dict")]
)
def test_a_key_answers(tmp_path, name, key):
    assert same(loaded(tmp_path, REFUSED[name][0], key)[0], PLAIN)
    with pytest.raises(CheckpointError, match=r"checkpoint_key: no weights under bset; there are "):
        loaded(tmp_path, REFUSED[name][0], "bset")


def masked() -> nn.Module:
    made = net()
    prune.l1_unstructured(made[0], "weight", 0.3)
    prune.ln_structured(made[3], "weight", 0.5, n=2, dim=0)
    return made


def normalised(kind) -> nn.Module:
    made = net()
    for number in (0, 2, 3):
        kind(made[number])
    for _ in range(3):
        made(torch.randn(2, 3, 8, 8))  # spectral norm learns by forward passes
    return made.eval()


PIECES = {
    "masks": (masked, "pruning mask applied in 2 weights, the first is 0.weight"),
    "weight norm": (lambda: normalised(weight_norm), "weight norm folded in 3 weights"),
    "weight norm over all": (lambda: normalised(lambda m: weight_norm(m, dim=None)), "weight norm folded"),
    "weight norm, parametrized": (lambda: normalised(parametrizations.weight_norm), "weight norm folded"),
    "spectral norm": (lambda: normalised(spectral_norm), "spectral norm folded in 3 weights"),
    "spectral norm, parametrized": (lambda: normalised(parametrizations.spectral_norm), "spectral norm folded"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", PIECES)
def test_weights_in_pieces_compute_what_their_own_network_does(tmp_path, kind):
    make, told = PIECES[kind]
    source, made = make().eval(), net().eval()
    _, said = loaded(tmp_path, {"state_dict": under("module.", source.state_dict())}, into=made)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(made(x), source(x), atol=1e-6, rtol=1e-5)
    assert len(said) == 1 and told in said[0]
    if kind == "masks":
        assert (
            torch.equal(made[0].weight, source[0].weight)
            and (made[0].weight == 0).sum() == (source[0].weight == 0).sum()
        )


def test_a_network_that_is_masked_itself_keeps_its_pieces(tmp_path):
    source, into = masked(), masked()
    held, said = loaded(tmp_path, source.state_dict(), into=into)
    assert same(held, source.state_dict()) and said == []


def test_pieces_of_an_unknown_kind_are_told(tmp_path):
    made = net()
    parametrizations.orthogonal(made[3])
    with pytest.raises(CheckpointError, match=r"weights in pieces\? Merge them"):
        loaded(tmp_path, made.state_dict())


def changed(key: str, value: torch.Tensor) -> dict:
    return {**PLAIN, key: value}


W = PLAIN["0.weight"]
VALUES = {
    "meta": (lambda: changed("0.weight", W.to("meta")), "0.weight is a meta tensor"),
    "complex": (lambda: changed("0.weight", W.to(torch.complex64)), "0.weight holds complex64, the network wants float32"),
    "whole numbers": (lambda: changed("0.weight", W.to(torch.int8)), "0.weight holds int8, the network wants float32; are these quantised"),
    "yes and no": (lambda: changed("0.bias", PLAIN["0.bias"] > 0), "0.bias holds bool"),
    "NaN": (lambda: changed("0.bias", torch.full((4,), torch.nan)), "NaN or infinity; the training"),
    "too large": (lambda: changed("0.bias", torch.full((4,), 1e300, dtype=torch.float64)), "0.bias holds NaN or infinity as float32"),
    "negative variance": (lambda: changed("1.running_var", -torch.ones(4)), r"1.running_var is negative \(-1\)"),
    "nested": (lambda: changed("0.bias", torch.nested.nested_tensor([torch.ones(2), torch.ones(2)])), "0.bias"),
    "half a step": (lambda: {**PLAIN, "4.index": torch.tensor([0.5])}, "0.5|holds float32 that int64"),
    "quantised by modules": (lambda: {**PLAIN, "0.zero_point": torch.tensor(0), "0.scale": torch.tensor(0.1)}, "of a quantised network"),
}  # fmt: skip


class Indexed(nn.Module):
    """A layer with a table of whole numbers, as attention has of relative positions."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("index", torch.tensor([3]))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", VALUES)
def test_values_that_are_no_weights_are_refused_in_one_line(tmp_path, kind):
    make, said = VALUES[kind]
    into = nn.Sequential(*net(), Indexed()) if kind == "half a step" else None
    with pytest.raises(CheckpointError, match=said) as fault:
        loaded(tmp_path, make(), into=into)
    assert "\n" not in str(fault.value)


@pytest.mark.filterwarnings("ignore")
def test_quantised_tensors_are_refused(tmp_path):
    quantised = torch.quantize_per_tensor(W, 0.01, 0, torch.qint8)
    with pytest.raises(
        CheckpointError, match=r"0.weight is of a quantised network \(qint8\); give the weights from before"
    ):
        loaded(tmp_path, {"model": changed("0.weight", quantised)})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "form", [torch.Tensor.double, torch.Tensor.bfloat16, torch.Tensor.to_sparse, nn.Parameter, lambda v: v.to_sparse_csr() if v.ndim == 2 else v]
)  # fmt: skip
def test_other_forms_of_the_same_numbers_are_taken(tmp_path, form):
    whole = {k: torch.round(v * 4) / 4 for k, v in PLAIN.items()}
    held, _ = loaded(tmp_path, {k: form(v) if v.is_floating_point() else v for k, v in whole.items()})
    assert same(held, {k: v.to(PLAIN[k].dtype) for k, v in whole.items()})


def test_infinities_that_the_network_was_built_with_are_taken(tmp_path):
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))

    save_file(dict(Masked().state_dict()), tmp_path / "w.safetensors")
    models.load_checkpoint(Masked(), tmp_path / "w.safetensors")
    save_file({"mask": torch.full((2, 2), torch.inf)}, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        models.load_checkpoint(Masked(), tmp_path / "w.safetensors")


def test_one_weight_under_two_names_must_be_one(tmp_path):
    def tied() -> nn.Module:
        made = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        made[1].weight = made[0].weight
        return made

    content = {k: v.clone() for k, v in tied().state_dict().items()}
    torch.save(content, tmp_path / "w.pt")
    models.load_checkpoint(tied(), tmp_path / "w.pt")
    content["1.weight"] += 1
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"0\.weight has another value once all are loaded"):
        models.load_checkpoint(tied(), tmp_path / "w.pt")


class Shard:
    """What torch.save writes of a tensor of which this process holds a part."""

    def __reduce__(self):
        from torch.distributed._shard.sharded_tensor import ShardedTensor

        return (ShardedTensor, ())


def test_a_sharded_tensor_is_told_and_never_made(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"is sharded over processes \(torch\.distributed.*ShardedTensor\); gather"
    ):
        loaded(tmp_path, {"model": {"0.weight": Shard()}})


def test_a_whole_network_is_named_and_not_run(tmp_path):
    torch.save({"model": net()}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"holds Python objects besides tensors \(torch\.nn\.modules\."):
        models.load_checkpoint(net(), tmp_path / "w.pt")


def test_a_network_that_leaves_its_trainer_out_does_not_leave_out_the_average(tmp_path):
    made = models.build("ddrnet", SMALL["ddrnet"], None, 5)
    plain = {k: v.clone() for k, v in made.state_dict().items()}
    averaged = {k: v + 1 if v.is_floating_point() else v for k, v in plain.items()}
    torch.save({**under("model.", plain), **under("ema_model.", averaged), "loss.w": torch.ones(2)}, tmp_path / "w.pt")
    (said,) = models.load_checkpoint(made, tmp_path / "w.pt").notes
    assert same(made.state_dict(), averaged) and said.startswith("the averaged weights, ema_model; ")
    models.load_checkpoint(made, tmp_path / "w.pt", key=said.partition("checkpoint_key=")[2].split()[0])
    assert same(made.state_dict(), plain)


def test_a_backbone_has_averages_too(tmp_path):
    made = models.build("deeplabv3", {"depth": 18, "width": 8, "head": 16, "aux": False}, None, 5)
    plain = {k.removeprefix("backbone."): v for k, v in made.state_dict().items() if k.startswith("backbone.")}
    averaged = {k: v + 1 if v.is_floating_point() else v for k, v in plain.items()}
    torch.save({"state_dict": under("module.", plain), "state_dict_ema": averaged}, tmp_path / "w.pt")
    found = models.load_backbone(made, tmp_path / "w.pt")
    assert torch.equal(made.backbone.layer1[0].conv1.weight, averaged["layer1.0.conv1.weight"])
    assert found.notes == [
        "the averaged weights, state_dict_ema; model.checkpoint_key=state_dict.module takes the plain ones"
    ]
    models.load_backbone(made, tmp_path / "w.pt", "state_dict.module")
    assert torch.equal(made.backbone.layer1[0].conv1.weight, plain["layer1.0.conv1.weight"])


def test_a_recipes_key_is_for_its_own_file_alone():
    """`compare` and `search` train the dense network once and give others its weights, which lie under no key."""
    told = ["model.checkpoint=w.pt", "model.checkpoint_key=ema"]
    own, trained = load_recipe("quickstart", [*told, "train=null"]), load_recipe("quickstart", told)
    assert own.from_weights(Path("w.pt")).model.checkpoint_key == "ema"
    made = trained.from_weights(Path("x/weights.safetensors"))
    assert made.model.checkpoint_key is None and made.train is None
    assert made.model.checkpoint == str(Path("x/weights.safetensors").resolve())
    with pytest.raises(RecipeError, match="checkpoint_key says where in a file"):
        load_recipe("quickstart", told[1:])


INTO = net()
LEAF = st.one_of(
    st.none(), st.integers(), st.floats(allow_subnormal=False), st.text(max_size=3), st.sampled_from([*PLAIN.values()]),
    st.sampled_from([torch.ones(2, dtype=torch.complex64), torch.ones(2).to("meta"), torch.ones(2, 2).to_sparse(), torch.tensor([])]),
)  # fmt: skip
NAMES = st.sampled_from(
    [*PLAIN, "0.weight_orig", "0.weight_mask", "0.weight_g", "0.weight_v", "model", "ema", "a.b", ".", "", 3]
)
CONTENT = st.recursive(
    LEAF | st.just(PLAIN),
    lambda inner: st.dictionaries(NAMES, inner, max_size=4) | st.lists(inner, max_size=2) | st.just(AVERAGED),
    max_leaves=8,
)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=500, deadline=None)
@given(content=CONTENT, key=st.none() | st.sampled_from(["model", "ema", ".", "", "model.ema"]))
def test_whatever_a_file_holds_it_fits_or_ends_in_our_error(content, key):
    assume(isinstance(content, dict) and content)
    with (
        pytest.MonkeyPatch.context() as patch
    ):  # files are written and read by torch, which takes longer than all else here
        patch.setattr(checkpoint, "content_of", lambda path: content)
        try:
            models.load_checkpoint(INTO, "w.pt", key=key)
        except EdgepruneError as fault:
            assert "\n" not in str(fault)
            return
    assert all(torch.isfinite(v.float()).all() for v in INTO.state_dict().values())
