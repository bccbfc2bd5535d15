"""A training loop of the user's own: between two commands, or as a command in the recipe."""

import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import edgeprune
from edgeprune.errors import EdgepruneError, SurgeryError
from edgeprune.files import read_json
from edgeprune.recipe import load_recipe
from tests.e2e import tiny
from tests.e2e.running import SETTINGS, called, report, run, together
from tests.forks import ranks

FACTORY = "tests.e2e.tiny:build"
TUNES = """
import sys, torch, edgeprune
from safetensors.torch import save_file
from tests.e2e.tiny import build
net = edgeprune.load(sys.argv[1], into=build(9))
with torch.no_grad():
    net.classifier.bias.add_(0.125)
print("my own training")
save_file(net.state_dict(), sys.argv[2])
"""


def command(name: str, recipe: str, runs: Path, *more: str, settings: tuple[str, ...] = ()) -> list[str]:
    told = [x for s in (*SETTINGS, *settings) for x in ("--set", s)]
    return [sys.executable, "-m", "edgeprune", name, recipe, "--runs-dir", str(runs), *told, *more]


@pytest.fixture(scope="module")
def cut(tmp_path_factory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    done = called(command("prune", "quickstart", runs))
    assert done.returncode == 0, done.stderr
    home = runs / "quickstart@cpu" / "prune"
    assert f"edgeprune.load({str(home)!r}, {FACTORY!r})" in done.stderr
    assert "edgeprune deploy quickstart --target cpu --runs-dir" in done.stderr and "--weights FILE" in done.stderr
    assert not (runs / "quickstart@cpu" / "export").exists()
    return runs


def test_prune_train_deploy(cut: Path, tmp_path):
    shutil.copytree(cut, tmp_path / "runs")
    dense = tiny.build(9).train()
    before = {k: v.clone() for k, v in dense.state_dict().items()}
    net = edgeprune.load(tmp_path / "runs" / "quickstart@cpu", into=dense)
    assert dense.training and all(torch.equal(v, before[k]) for k, v in dense.state_dict().items()), "left as it was"
    assert type(net) is tiny.Tiny and all(p.requires_grad for p in net.parameters())
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    net.train()(torch.randn(2, 3, 64, 128)).square().mean().backward()
    optimizer.step()
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, tmp_path / "tuned.safetensors")
    line = command("deploy", "quickstart", tmp_path / "runs", "--weights", str(tmp_path / "tuned.safetensors"))
    done = called(line)
    assert done.returncode == 0, done.stderr
    r = report(tmp_path / "runs")
    assert [s["name"] for s in r["stages"] if s["skipped"]] == ["load", "profile", "prune"]
    assert r["training_steps"]["finetune"] == 0 and r["dense"]["miou"] is not None
    shipped = edgeprune.load(tmp_path / "runs" / "quickstart@cpu", into=dense)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in shipped.state_dict().items())
    net.classifier.bias.data.add_(1)
    save_file(net.state_dict(), tmp_path / "tuned.safetensors")
    again = called(line)
    assert again.returncode == 0 and again.stderr.count("skipped") == 3, "other weights in the same file"
    page = (tmp_path / "runs" / "quickstart@cpu" / "report.html").read_bytes()
    of_dense = str(cut / "quickstart@cpu" / "load" / "weights.safetensors")
    for more, said in (
        (("--weights", of_dense), "tuned weights, which have to be of the network"),
        (("--set", "prune.method=l1"), "stage prune: was done with other keys of the recipe; edgeprune prune"),
    ):
        refused = called([*line, *more])
        assert refused.returncode == 1 and said in refused.stderr, refused.stderr
    assert called(command("prune", "quickstart", tmp_path / "runs")).returncode == 0
    assert (tmp_path / "runs" / "quickstart@cpu" / "report.html").read_bytes() == page, "what was refused replaced it"
    assert read_json(tmp_path / "runs" / "quickstart@cpu" / "recipe.json")["finetune"]["checkpoint"], "a cut did"


def test_a_command_tunes(cut: Path, tmp_path, capfd):
    shutil.copytree(cut, tmp_path / "runs")
    (tmp_path / "a script.py").write_text(TUNES)
    words = shlex.join([sys.executable, str(tmp_path / "a script.py")]) + " {pruned} {tuned}"
    told = f"finetune.command={words!r}"
    done = run(tmp_path / "runs", told, "deploy.gates.min_speedup=null")
    assert done.returncode == 0, done.stderr
    assert "my own training" in done.stdout + capfd.readouterr().out
    home = tmp_path / "runs" / "quickstart@cpu"
    start, tuned = (load_file(home / name / "weights.safetensors") for name in ("prune", "finetune"))
    torch.testing.assert_close(tuned["classifier.bias"], start["classifier.bias"] + 0.125)
    assert not (home / "finetune" / "start").exists() and not (home / "finetune" / "tuned.weights").exists()


def test_what_was_not_cut_is_not_deployed(cut: Path, tmp_path, cli):
    weights = cut / "quickstart@cpu" / "prune" / "weights.safetensors"
    code, _, err = cli(*command("deploy", "quickstart", tmp_path, "--weights", str(weights))[3:])
    assert code == 1 and err.count("\n") == 1 and "stage load: has not been done; edgeprune prune" in err
    assert not (tmp_path / "quickstart@cpu" / "load").exists()


def test_of_two_processes_both_end_with_the_cut_and_with_the_engine(tmp_path):
    """The second one takes part in what trains, and may not wait for a stage that is not done."""
    done = together(command("prune", "quickstart", tmp_path), ranks())
    assert [p.returncode for p in done] == [0, 0], done
    weights = shutil.copy(tmp_path / "quickstart@cpu" / "prune" / "weights.safetensors", tmp_path / "tuned.safetensors")
    done = together(command("deploy", "quickstart", tmp_path, "--weights", str(weights)), ranks())
    assert [p.returncode for p in done] == [0, 0], done


FAULTS = {
    "folder": ("import os, sys; os.makedirs(sys.argv[2])", "has become a folder"),
    "status": ("import sys; sys.exit(7)", "ended with status 7"),
    "nothing": ("pass", "is not there"),
    "nan": (TUNES.replace("add_(0.125)", "fill_(float('nan'))"), "NaN"),
    "shape": (
        TUNES.replace("net = edgeprune.load(sys.argv[1], into=build(9))", "net = build(9)"),
        "tuned weights, which have to be",
    ),
    "junk": ("import sys; open(sys.argv[2], 'w').write('junk')", "neither safetensors nor a torch file"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_command_that_fails_is_one_line_and_loses_nothing(cut: Path, tmp_path, fault):
    shutil.copytree(cut, tmp_path / "runs")
    script, said = FAULTS[fault]
    (tmp_path / "tune.py").write_text(script)
    words = shlex.join([sys.executable, str(tmp_path / "tune.py")]) + " {pruned} {tuned}"
    done = run(tmp_path / "runs", f"finetune.command={words!r}")
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and said in last and last.startswith("error: ") and "Traceback" not in done.stderr, (
        done.stderr
    )
    assert (tmp_path / "runs" / "quickstart@cpu" / "prune" / "weights.safetensors").exists()
    if fault != "folder":
        return
    (tmp_path / "tune.py").write_text(TUNES + "import shutil; shutil.rmtree(sys.argv[1])\n")  # it tidies up too much
    assert run(tmp_path / "runs", f"finetune.command={words!r}").returncode == 0


def test_nothing_is_fine_tuned_where_the_recipe_says_so(cut: Path, tmp_path):
    shutil.copytree(cut, tmp_path / "runs")
    settings = ("finetune=null",)
    done = called(command("run", "quickstart", tmp_path / "runs", settings=settings))
    assert done.returncode == 0, done.stderr
    home = tmp_path / "runs" / "quickstart@cpu"
    start, shipped = (load_file(home / name / "weights.safetensors") for name in ("prune", "finetune"))
    assert all(torch.equal(start[k], shipped[k]) for k in start)


def test_a_command_trains_the_dense_network(tmp_path):
    (tmp_path / "train.py").write_text(
        "import sys, torch\nfrom tests.e2e.tiny import build\ntorch.manual_seed(3)\ntorch.save({'state_dict': build(9).state_dict()}, sys.argv[1])\n"
    )
    words = shlex.join([sys.executable, str(tmp_path / "train.py")]) + " {trained}"
    done = called(command("prune", "quickstart", tmp_path / "runs", settings=(f"train={{command: {words!r}}}",)))
    assert done.returncode == 0, done.stderr
    torch.manual_seed(3)
    kept = load_file(tmp_path / "runs" / "quickstart@cpu" / "load" / "weights.safetensors")
    assert all(torch.equal(v, kept[k]) for k, v in tiny.build(9).state_dict().items() if k in kept)


def test_a_network_that_is_not_the_one_that_was_cut(cut: Path):
    with pytest.raises(SurgeryError, match="`into` has to be the dense network that was cut"):
        edgeprune.load(cut / "quickstart@cpu", into=tiny.build(9, 16))


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("finetune={command: 'python t.py'}", r"finetune.command: .*write \{pruned\} and \{tuned\} in it"),
        ("finetune={command: 'python t.py {pruned}'}", r"write \{tuned\} in it"),
        ("train={command: 'python t.py'}", r"train.command: .*write \{trained\} in it"),
        ("finetune={command: 'python {pruned} {tuned} \"'}", "finetune.command: "),
        ("finetune={command: 'a {pruned} {tuned}', checkpoint: x}", "two ways"),
        ("finetune={checkpoint: x, weights: 2of4}", "2of4"),
        ("train={command: 'a {pruned} {trained}'}", r"\{pruned\} is not known here"),
        ("finetune={}", "give the length as epochs or steps"),
    ],
)
def test_recipes(setting, said):
    with pytest.raises(edgeprune.errors.RecipeError, match=said):
        load_recipe("quickstart", [setting])


def test_weights_that_are_not_there(cut: Path, cli):
    code, _, err = cli(*command("deploy", "quickstart", cut, "--weights", "/nowhere.pt")[3:])
    assert code == 2 and err.count("\n") == 1 and "--weights: /nowhere.pt does not exist" in err


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("no-such-program {pruned} {tuned}", "there is no program no-such-program"),
        ("cd /tmp && python {pruned} {tuned}", "&& is for a shell"),
        ("A=1 python {pruned} {tuned}", "A=1 is for a shell"),
    ],
)
def test_commands_that_cannot_start_are_refused_before_anything_is_trained(cli, told, said):
    code, _, err = cli("check", "quickstart", "--set", f"finetune.command={told!r}")
    assert code == 2 and err.count("\n") == 1 and f"finetune.command: {said}" in err


@pytest.mark.parametrize(
    ("into", "said"),
    [
        (lambda: tiny.Tiny, "has to be a network"),
        (lambda: tiny.build(9).to("meta"), "meta device"),
        (lambda: torch.nn.DataParallel(tiny.build(9)), "of DataParallel its .module"),
    ],
)
def test_what_nothing_can_be_loaded_into(cut: Path, into, said):
    with pytest.raises(EdgepruneError, match=said):
        edgeprune.load(cut / "quickstart@cpu", into=into())
    caches = tiny.build(9)
    caches.seen = caches(torch.zeros(1, 3, 32, 32))
    with pytest.raises(EdgepruneError, match="no copy can be made"):
        edgeprune.load(cut / "quickstart@cpu", into=caches)
