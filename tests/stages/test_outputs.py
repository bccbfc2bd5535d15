"""Of several outputs the one ships that is meant: where it is not plain the network is refused until the recipe says it, and then it
holds from the loss to the engine."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import nn

import edgeprune
from edgeprune import models
from edgeprune.data.transforms import normalised
from edgeprune.errors import EdgepruneError, ModelError, RecipeError
from edgeprune.files import read_json, write_json
from edgeprune.models.outputs import Choice, carry, choose
from edgeprune.prune.groups import find_groups
from edgeprune.recipe import Distill, Loss, load_recipe
from edgeprune.runtime.onnxruntime import OnnxRuntimeEngine
from edgeprune.stages import deploy, finetune, fits, load
from edgeprune.stages.prune import prune
from edgeprune.stages.run import Run
from edgeprune.target import load_target
from edgeprune.train.distill import make_term
from edgeprune.train.losses import cross_entropy, make_loss
from tests.models import several_outputs
from tests.models.several_outputs import CLEAR, UNCLEAR

SIZE, CLASSES = (32, 48), list("abcde")
EXAMPLE = torch.zeros(1, 3, *SIZE)


def net_of(form: str) -> nn.Module:
    torch.manual_seed(0)
    return several_outputs.build(len(CLASSES), form)


def heads(net, x):
    """(coarse, final, features) by themselves."""
    y = net.stem(x)
    coarse = net.coarse(y)
    z = net.refine(torch.cat([y, coarse], 1))
    return coarse, net.final(z), z


def chosen(net, asked=None):
    return choose(*fits.answers(net, EXAMPLE), "segmentation", len(CLASSES), asked)


@pytest.mark.parametrize("form", UNCLEAR)
def test_several_outputs_that_fit_are_asked_about(form):
    with pytest.raises(ModelError, match=r"^model\.output: 2 outputs of the network may be its answer") as told:
        fits.check(net_of(form), EXAMPLE, "segmentation", CLASSES, [])
    assert UNCLEAR[form][2] in str(told.value) and "(1, 5, 16, 24)" in str(told.value).replace("(2, 5", "(1, 5")


@pytest.mark.parametrize("form", UNCLEAR)
def test_what_is_asked_for_is_the_main_output_in_both_modes(form):
    net = net_of(form)
    carry(net, chosen(net, UNCLEAR[form][1]))
    for mode in (True, False):
        net.train(mode)
        x = torch.randn(2, 3, *SIZE)
        output = net(x)
        coarse, final, _ = heads(net, x)
        assert torch.equal(models.logits_of(output), final)
        labels = torch.randint(0, 5, (2, *final.shape[2:]))
        others = 0.5 * cross_entropy(coarse, labels) if isinstance(output, dict) and len(output) > 1 else 0.0
        torch.testing.assert_close(
            make_loss(Loss(aux_weight=0.5), None)(output, labels), cross_entropy(final, labels) + others
        )


@pytest.mark.parametrize("form", CLEAR)
def test_what_is_plain_needs_no_key(form):
    net = net_of(form)
    fits.check(net, EXAMPLE, "segmentation", CLASSES, [])
    choice = chosen(net_of(form))
    assert choice is None or choice.evaluation == CLEAR[form][1]
    carry(net, choice).eval()
    x = torch.randn(1, 3, *SIZE)
    assert torch.equal(models.logits_of(net(x)), heads(net, x)[1])
    assert find_groups(net, EXAMPLE).groups


def test_a_width_that_comes_to_the_number_of_classes_is_no_second_answer():
    net = net_of("features_and_logits")
    carry(net, chosen(net))
    net.refine = several_outputs.block(21, 5)  # as if it were pruned
    net.final = nn.Conv2d(5, 5, 1)
    x = torch.randn(1, 3, *SIZE)
    assert torch.equal(models.logits_of(net.eval()(x)), heads(net, x)[1])


def test_without_a_choice_an_unclear_list_is_refused_wherever_it_is_met():
    net = net_of("hrnet_ocr").eval()
    with pytest.raises(ModelError, match=r"--set model\.output=-1"):
        models.logits_of(net(EXAMPLE))
    with pytest.raises(ModelError, match=r"--set model\.output=-1"):
        find_groups(net, EXAMPLE)


@pytest.mark.parametrize(
    ("form", "asked", "told"),
    [
        ("hrnet_ocr", "2", r"no tensor at '2'; the network answers 0 \(1, 5, 16, 24\), 1 "),
        ("nested", "seg", r"no tensor at 'seg'; the network answers seg.coarse \(1, 5, 16, 24\)"),
        ("pidnet", "2", r"answers 2 \(1, 1, 16, 24\) to \(\); segmentation of this data wants \(B, 5 classes"),
        ("tuple_of_one_in_evaluation", "1", "no tensor at '1'; the network answers 0"),
    ],
)
def test_a_key_that_names_nothing_or_no_answer_is_refused(form, asked, told):
    with pytest.raises(ModelError, match=told):
        chosen(net_of(form), asked)


def test_a_key_for_a_network_of_one_output_is_refused():
    with pytest.raises(ModelError, match="'0' names nothing, the network gives one tensor"):
        chosen(nn.Conv2d(3, 5, 1), "0")


def test_the_classifier_whose_features_are_distilled_is_the_main_ones():
    net = carry(net_of("hrnet_ocr"), Choice("1", "1"))
    coarse = net.coarse
    del net.coarse
    net.coarse = coarse  # the last one by name
    teacher = copy.deepcopy(net)
    nn.init.normal_(teacher.refine[0].weight)
    images, labels = torch.randn(2, 3, *SIZE), torch.randint(0, 5, (2, *SIZE))
    term, end = make_term(Distill(logits=0, features=1), net, teacher, 5)
    term(images, net(images), labels).backward()
    end()
    assert net.refine[0].weight.grad is not None, "the final classifier's features come from there"


@pytest.mark.parametrize("value", ["true", "1.5", "[1]", "''", "{a: 1}"])
def test_a_value_that_is_no_path_is_refused(value):
    with pytest.raises(RecipeError, match=r"model\.output: a key or an index such as -1"):
        load_recipe("quickstart", [f"model.output={value}"])


SETTINGS = [
    "model={factory: 'tests.models.several_outputs:build', args: {form: hrnet_ocr}}", "data.size=[32,64]", "data.args={train: 4, val: 2}",
    "train.steps=3", "train.batch=2", "train.ema=0.9", "train.lr=0.01", "finetune.steps=3", "finetune.batch=2",
    "finetune.recalibrate_batches=2", "prune.batches=2", "prune.step=2", "deploy.simplify=false", "deploy.head=argmax",
    "finetune.distill={logits: 1.0, features: 1.0}",
]  # fmt: skip


def job(folder, *more: str) -> Run:
    return Run(load_recipe("quickstart", [*SETTINGS, *more]), load_target("cpu"), folder, Console(quiet=True), key="k")


def test_a_run_without_the_key_ends_before_it_trains(tmp_path):
    with pytest.raises(EdgepruneError, match=r"^model\.output: 2 outputs"):
        load.load(job(tmp_path))
    assert not (tmp_path / "load").exists()


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Run:
    """A run up to its graphs."""
    run = job(tmp_path_factory.mktemp("run"), "model.output=-1")
    run.facts["load"] = load.load(run)
    run.facts["profile"] = {"head": "argmax"}
    run.facts["prune"] = prune(run)
    run.facts["finetune"] = finetune.finetune(run)
    run.facts["export"] = deploy.export(run)
    return run


def test_the_choice_holds_from_training_to_the_graph(done):
    net = finetune.pruned(done, "finetune")
    whole = sum(p.numel() for p in net.parameters())
    assert done.facts["finetune"]["params"] == whole, "the final head hangs on all"
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 64, 3)).astype(np.uint8)
    with torch.no_grad():
        coarse, final, _ = heads(net, normalised(images))
        wanted, other = (F.interpolate(y, (32, 64), mode="bilinear").argmax(1).numpy() for y in (final, coarse))
    assert (wanted != other).any(), "so the test can fail"
    np.testing.assert_array_equal(load.task(done).predictor(net)(images), wanted)
    found = OnnxRuntimeEngine(done.folder / "export" / "pruned.onnx").predict(images)
    assert (found == wanted).mean() > 0.999


def test_only_the_heads_that_ship_are_cut(done):
    table = read_json(done.folder / "prune" / "widths.json")
    assert table["unprunable"]["final"] == table["unprunable"]["coarse"] == "an output of the network"
    assert {row["group"] for row in table["widths"]} == {"stem.0", "refine.0"}


def test_the_plan_keeps_the_choice(done):
    net = edgeprune.load(done.folder, "tests.models.several_outputs:build")
    x = torch.randn(1, 3, 32, 64)
    output = net(x)
    assert torch.equal(output["out"], heads(net, x)[1]) and torch.equal(output["aux.0"], heads(net, x)[0])
    assert list(net.state_dict()) == list(net_of("hrnet_ocr").state_dict()), "names are the user's"


@pytest.mark.parametrize("made", [{"out": 64, "aux": 5}, {"logits": 4, "seg": 5}, {"out": {"a": 3}, "aux": 5}])
def test_a_main_output_that_does_not_fit_is_not_replaced_in_silence(made):
    def answer(made):
        return {k: answer(v) if isinstance(v, dict) else torch.zeros(2, v, 4, 6) for k, v in made.items()}

    last = list(made)[-1]
    with pytest.raises(ModelError, match=f"^model\\.output: .*main output is .*--set model.output={last}"):
        choose(answer(made), answer(made), "segmentation", 5)
    assert choose(answer(made), answer(made), "segmentation", 5, last) == Choice(last, last)


@pytest.mark.parametrize("output", [5, "1", ["1"], [1, 1], {"a": 1}])
def test_a_plan_whose_choice_was_changed_is_refused(done, tmp_path, output):
    plan = read_json(done.folder / "finetune" / "plan.json")
    plan["network"]["output"] = output
    write_json(tmp_path / "plan.json", plan)
    with pytest.raises(EdgepruneError, match=r"plan\.json: not a plan of schema 1 \(network\.output"):
        edgeprune.load(tmp_path, "tests.models.several_outputs:build")
