"""What a stage hangs on: which are done again when the target, the way to it, or what it finds there changes. Stages are stand-ins."""

import io
import json
import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console
from torch import nn

from edgeprune import pipeline, progress
from edgeprune.errors import DataError, DeviceError, EdgepruneError, EngineError
from edgeprune.files import SEAL, hash_obj, read_json, write_json
from edgeprune.models import code
from edgeprune.pipeline import Stage
from edgeprune.recipe import load_recipe
from edgeprune.stages import deploy, manifest, notes, results
from edgeprune.stages.inputs import inputs, plain
from edgeprune.stages.run import Run
from edgeprune.target import load_target


class Board:
    """A device that is there or not, and what it says."""

    def __init__(self):
        self.version_told, self.missing, self.head, self.cpu = "backend 1", None, "argmax", "this one"
        self.power_mode = "15W"

    def why_not(self):
        return self.missing

    def version(self):
        return self.version_told

    def identity(self):
        return {"cpu": self.cpu, "governor": "powersave", "power_mode": self.power_mode}


@pytest.fixture
def board(monkeypatch):
    found = Board()
    monkeypatch.setattr(deploy, "device", lambda run: found)
    return found


@pytest.fixture
def done(monkeypatch, board, tmp_path):
    """Runs the pipeline with the target changed so; the names of the stages that worked."""
    worked = []

    def stage(name, facts=lambda: {}, **more):
        def work(run):
            worked.append(name)
            write_json(run.folder / name / "result.json", {"of": name})
            return facts()

        return Stage(name, work, **more)

    head = lambda: {"head": board.head if board.missing is None else "argmax"}  # noqa: E731
    stages = [
        stage("load"), stage("profile", head, asks=True, plans=True), stage("prune", trains=True), stage("finetune", trains=True),
        stage("compile", lambda: {"backend": board.missing or board.version_told}, asks=True, brought="result.zip"), stage("verify"),
        stage("report", lambda: {"exit_status": 0}, always=True),
    ]  # fmt: skip
    monkeypatch.setattr(pipeline, "STAGES", stages)
    monkeypatch.setattr(pipeline.early, "check", lambda run, rehearsed: None)

    def go(*settings, as_it_stands=False, result=None, **changes):
        worked.clear()
        go.console = progress.console(file=io.StringIO())
        target = load_target("jetson").model_copy(update=changes)
        recipe = load_recipe("quickstart", list(settings))
        pipeline.run(recipe, target, tmp_path, go.console, as_it_stands, result)
        return [name for name in worked if name != "report"]

    return go


EVERYTHING = ["load", "profile", "prune", "finetune", "compile", "verify"]


@pytest.mark.parametrize("setting", ["data.workers=3", "train.checkpoint_every=7", "train.val_every=2"])
def test_how_a_run_is_watched_changes_nothing(done, setting, monkeypatch):
    monkeypatch.setattr(pipeline, "STAGES", [replace(s, depends=("data", "train")) for s in pipeline.STAGES])
    assert done() == EVERYTHING
    assert done(setting) == [] and done("train.lr=0.5") == EVERYTHING


def test_another_patience_or_another_way_there_does_nothing_again(done):
    assert done() == EVERYTHING
    assert done(run_seconds=5000, build_seconds=7, ssh=["-p", "2222"], python="/opt/python", cool_below_c=60) == []


def test_a_result_is_judged_on_the_networks_that_lie_there_and_nothing_is_trained(done, monkeypatch, tmp_path):
    """Another version of the program, or another number of processes, would train them again, and the result would be no one's."""
    finetune = "finetune.lr=0.5"
    stage = next(s for s in pipeline.STAGES if s.name == "finetune")
    monkeypatch.setattr(
        pipeline, "STAGES", [replace(s, depends=("finetune",)) if s is stage else s for s in pipeline.STAGES]
    )
    with pytest.raises(EngineError, match="stage load: has not been done"):
        done(as_it_stands=True)
    done()
    monkeypatch.setattr(pipeline.edgeprune, "__version__", "99")
    (tmp_path / "quickstart@jetson" / "result.zip").write_bytes(b"brought")
    assert done(as_it_stands=True) == ["compile", "verify"]
    with pytest.raises(EngineError, match=r"stage finetune: was done with other keys of the recipe; edgeprune run"):
        done(finetune, as_it_stands=True)
    (tmp_path / "quickstart@jetson" / "prune" / "result.json").write_text("{}")
    with pytest.raises(EngineError, match=r"prune/result.json is missing or damaged"):
        done(as_it_stands=True)
    assert done() == EVERYTHING


def test_a_result_is_read_when_its_run_is_known_to_be_whole(done, monkeypatch, tmp_path):
    """It is held against the run's own graphs: where one is missing, the result is not to blame."""

    def unfit(run, path):
        raise EngineError("the result does not fit")

    monkeypatch.setattr(pipeline.brought, "check", unfit)
    done()
    result = tmp_path / "brought.zip"
    result.write_bytes(b"brought")
    with pytest.raises(EngineError, match="the result does not fit"):
        done(as_it_stands=True, result=result)
    for damage in (lambda path: path.write_text("{}"), lambda path: path.unlink()):
        damage(tmp_path / "quickstart@jetson" / "prune" / "result.json")
        with pytest.raises(EngineError, match=r"stage prune: prune/result.json is missing or damaged"):
            done(as_it_stands=True, result=result)


def unsealed(folder, **changes):
    """The run as the version before seals has written it, whose recipes had no `model.output`."""
    recipe = read_json(folder / "recipe.json")
    del recipe["model"]["output"]
    write_json(folder / "recipe.json", recipe)
    stages = read_json(folder / "manifest.json")["stages"]
    for record in stages.values():
        del record[SEAL]
    stages["load"] |= {"recipe": hash_obj({"model": plain(recipe["model"])})} | changes
    write_json(folder / "manifest.json", {"schema": 1, "stages": stages})


@pytest.fixture
def old(done, monkeypatch, tmp_path):
    """A finished run of that version."""
    monkeypatch.setattr(
        pipeline, "STAGES", [replace(s, depends=("model",)) if s.name == "load" else s for s in pipeline.STAGES]
    )
    done()
    folder = tmp_path / "quickstart@jetson"
    unsealed(folder)
    return folder


def test_a_run_of_the_version_before_takes_results_again_and_again(done, old):
    """Boards were measured by its bundles; what it trained is not done again for want of a seal."""
    for content in (b"one", b"two"):
        (old / "result.zip").write_bytes(content)
        assert done(as_it_stands=True) == ["compile", "verify"]
        said = done.console.file.getvalue()
        assert "stage load: its record is of an earlier version, without a seal" in said
    assert done()[:4] == EVERYTHING[:4] and read_json(old / "manifest.json")["schema"] == 2, "a run does not believe it"


def test_of_the_version_before_only_whole_records_of_whole_files_are_taken(done, old):
    whole = read_json(old / "manifest.json")
    for change in ({"facts": []}, {"files": {"load/result.json": 3}}, {"seconds": None}, {SEAL: "0"}):
        record = whole["stages"]["load"] | change
        write_json(old / "manifest.json", whole | {"stages": whole["stages"] | {"load": record}})
        with pytest.raises(EngineError, match="stage load: .*was changed, or written by an earlier version"):
            done(as_it_stands=True)
    write_json(old / "manifest.json", whole | {"schema": 2})
    with pytest.raises(EngineError, match="stage load: .*was changed"):
        done(as_it_stands=True)
    write_json(old / "manifest.json", whole)
    (old / "prune" / "result.json").write_text("{}")
    with pytest.raises(EngineError, match=r"prune/result.json is missing or damaged"):
        done(as_it_stands=True)


@pytest.mark.parametrize(
    ("name", "value", "setting"),
    [
        ("EDGEPRUNE_PATIENCE", "abc", "budget.macs=0.5x"),
        ("EDGEPRUNE_PATIENCE", "-3", "budget.latency=0.5x"),
        ("EDGEPRUNE_LEASE", "/dev/null/lease", "budget.macs=0.5x"),
        ("EDGEPRUNE_LEASE", "{folder}/missing/lease", "budget.macs=0.5x"),
        ("EDGEPRUNE_TABLE", "/dev/null/table.sqlite", "budget.latency=0.5x"),
    ],
)
def test_environment_variables_are_checked_before_anything_is_done(done, monkeypatch, tmp_path, name, value, setting):
    monkeypatch.setenv(name, wrong := value.format(folder=tmp_path))
    with pytest.raises(EdgepruneError, match=name) as refused:
        done(setting)
    assert wrong in str(refused.value) and not list(tmp_path.iterdir())


def test_the_latency_table_is_not_asked_for_where_nothing_is_predicted(done, monkeypatch):
    monkeypatch.setenv("EDGEPRUNE_TABLE", "/dev/null/table.sqlite")
    assert done("budget.macs=0.5x") == EVERYTHING


@pytest.mark.parametrize("stage", ["profile", "compile"])
@pytest.mark.parametrize("part", ["facts", "key", "files", "seconds", "versions"])
def test_a_changed_record_is_done_again(done, tmp_path, stage, part):
    """Its facts go into the report and the exit status, as its files do."""
    done()
    path = tmp_path / "quickstart@jetson" / "manifest.json"
    whole = read_json(path)
    record = whole["stages"][stage]
    record[part] = {
        "facts": {"head": "best", "passed": True},
        "key": "0",
        "files": {},
        "seconds": 1.0,
        "versions": {"x": "1"},
    }[part]
    write_json(path, whole)
    assert (
        "record of stage" in str(manifest.changed(path.parent, stage)) and manifest.record(path.parent, stage) is None
    )
    if stage == "profile":  # of those that are taken as they stand
        with pytest.raises(EngineError, match="stage profile: .*was changed.*edgeprune run makes it again"):
            done(as_it_stands=True)
    assert done() == [stage]
    assert manifest.changed(path.parent, stage) is None and done() == []


def test_another_device_keeps_the_dense_network(done):
    done()
    assert done(channel_step=64) == EVERYTHING[1:]


def test_a_board_that_is_there_now_is_asked_and_trains_nothing_by_itself(done, board):
    board.missing = "no route to host"
    assert done(host="user@board") == EVERYTHING
    assert done(host="user@board") == []
    assert done() == [], "its result may be brought by hand"
    board.missing = None
    assert done(host="user@board") == ["profile", "compile", "verify"]
    board.missing = "switched off again"
    assert done(host="user@board") == [], "what was measured stays measured"
    board.missing, board.head = None, "chain"
    assert done(host="user@other") == EVERYTHING[1:], "another board, which likes another head"


def test_another_version_of_the_backend_there_is_measured_anew(done, board):
    done(host="user@board")
    board.version_told = "backend 2"
    assert done(host="user@board") == ["profile", "compile", "verify"]


def test_a_folder_that_was_taken_to_another_machine_is_measured_there(done, board):
    done()
    board.cpu = "another one"
    assert done() == ["profile", "compile", "verify"]


def test_another_power_mode_is_measured_anew(done, board):
    done()
    board.power_mode = "MAXN"
    assert done() == ["profile", "compile", "verify"]


def test_a_stage_that_fails_loses_nothing(done, monkeypatch, tmp_path):
    """Data that is not mounted: the dense network that took hours is still there when it is."""
    done()
    run, weights = tmp_path / "quickstart@jetson", tmp_path / "quickstart@jetson/load/result.json"
    monkeypatch.setattr(pipeline, "inputs", lambda recipe: ["other data"])
    working, work = list(pipeline.STAGES), pipeline.STAGES[0].work

    def fails(run):
        assert not weights.exists()  # it must not take the old ones for its own
        write_json(run.folder / "load" / "notes.json", {"key": run.key})
        raise DataError("data.root: nothing there")

    monkeypatch.setattr(pipeline, "STAGES", [Stage("load", fails), *working[1:]])
    with pytest.raises(DataError):
        done()
    assert read_json(weights) == {"of": "load"}
    assert not (run / "report.json").exists()  # it told of another recipe
    monkeypatch.setattr(pipeline, "STAGES", [Stage("load", work), *working[1:]])
    monkeypatch.setattr(pipeline, "inputs", lambda recipe: [])
    assert done() == []


def test_seconds_of_killed_attempts_count(tmp_path):
    home = tmp_path / "finetune"
    assert results.spent_before(home, "a") == 0
    began = read_json(home / ".began")["began"]
    (home / "checkpoint.pt").touch()
    os.utime(home / "checkpoint.pt", (began + 50, began + 50))  # then it was killed
    assert results.spent_before(home, "a") == pytest.approx(50, abs=0.1)
    os.utime(home / "checkpoint.pt", (began + 90, began + 90))
    assert 130 < results.spent_before(home, "a") <= 140
    assert results.spent_before(home, "b") == 0  # another recipe's


def test_what_a_killed_stage_set_aside_comes_back(tmp_path):
    home = tmp_path / "load"
    write_json(home / "weights.json", {"of": "a"})
    with pytest.raises(KeyboardInterrupt), results.set_aside(home, "b"):
        assert not (home / "weights.json").exists()
        write_json(home / "classes.json", {"of": "b"})
        raise KeyboardInterrupt
    assert {p.name for p in results.of(home)} == {"weights.json", "classes.json"}
    with results.set_aside(home, "b"):
        write_json(home / "weights.json", {"of": "b"})
    assert [p.name for p in results.of(home)] == ["weights.json"] and not (home / ".aside").exists()


def test_a_change_made_while_the_board_was_off_is_measured_when_it_is_back(done, board):
    done(host="user@board")
    board.missing = "switched off"
    assert done(host="user@board", channel_step=64) == EVERYTHING[1:]
    board.missing = None
    assert done(host="user@board", channel_step=64) == ["profile", "compile", "verify"]


def test_a_longer_fine_tuning_is_another_contest_where_losses_are_measured(tmp_path):
    job = lambda *settings: Run(load_recipe("quickstart", list(settings)), load_target("cpu"), tmp_path, Console())  # noqa: E731
    stage = next(s for s in pipeline.STAGES if s.name == "prune")
    key = lambda *settings: pipeline._stage_key(job(*settings), stage, "")  # noqa: E731
    assert key("finetune.steps=50") == key("finetune.steps=5000"), "of a MACs budget by scores they are the same cut"
    assert key("budget.latency=0.5x", "finetune.steps=50") != key("budget.latency=0.5x", "finetune.steps=5000")


def test_notes_of_a_killed_stage_are_still_there_and_others_are_not(done, board, monkeypatch, tmp_path):
    done()
    home = tmp_path / "quickstart@jetson" / "prune"
    seen = []

    def dear(run):
        seen.append(sorted(p.name for p in home.glob("*.json")))
        key = notes.key_of(run, SimpleNamespace(net=nn.Conv2d(1, 1, 1), scores={}), "about")
        notes.keep(home / "recovery.json", {"key": key, "loss": {"a": 1.0}})
        write_json(home / "latency.json", {"engines": []})
        if len(seen) < 2:
            raise DeviceError("the power went")
        assert notes.told(home / "recovery.json", key)["loss"] == {"a": 1.0}
        return {}

    stages = [s if s.name != "prune" else Stage("prune", dear, ("prune",), trains=True) for s in pipeline.STAGES]
    monkeypatch.setattr(pipeline, "STAGES", stages)
    with pytest.raises(DeviceError):
        done()
    assert done() == ["finetune", "compile", "verify"]
    assert seen == [[], ["recovery.json"]], "notes of this very stage stay; results, and what carries no key, go"
    manifest = read_json(tmp_path / "quickstart@jetson" / "manifest.json")
    assert "prune/recovery.json" in manifest["stages"]["prune"]["files"]


def test_damaged_notes_are_no_notes(tmp_path):
    for content in ("{", "[]", json.dumps({"key": 3}), json.dumps({"key": "other stage"})):
        (tmp_path / "x.json").write_text(content)
        assert not notes.belong(tmp_path / "x.json", "this")
    (tmp_path / "x.json").write_text(json.dumps({"key": "this one"}))
    assert notes.belong(tmp_path / "x.json", "this")
    notes.keep(tmp_path / "x.json", {"key": "this one", "loss": 0.25})
    assert notes.told(tmp_path / "x.json", "this one")["loss"] == 0.25
    (tmp_path / "x.json").write_text((tmp_path / "x.json").read_text().replace("0.25", "0.35"))
    assert notes.told(tmp_path / "x.json", "this one") == {}


@pytest.mark.parametrize("form", ["package", "namespace", "module"])
def test_a_change_in_a_users_code_is_seen(tmp_path, monkeypatch, form):
    home = tmp_path / "nets_of_mine"
    home.mkdir()
    if form == "package":
        (home / "__init__.py").touch()
    (home / "net.py").write_text("import blocks_of_mine\nimport torch\n\ndef build(classes): ...\n")
    (tmp_path / "single_of_mine.py").write_text("from nets_of_mine import net\nbuild = net.build\n")
    (tmp_path / "blocks_of_mine.py").write_text("WIDTH = 1\n")
    (tmp_path / "unread.py").write_text("raise SystemExit('it was run')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    factory = "single_of_mine:build" if form == "module" else "nets_of_mine.net:build"
    recipe = load_recipe("quickstart", ["model.network=null", f"model.factory={factory}"])
    before = inputs(recipe)
    assert inputs(recipe) == before and len(before[0]) == (3 if form != "namespace" else 2)
    for name in ("blocks_of_mine.py", "nets_of_mine/net.py"):
        (tmp_path / name).write_text((tmp_path / name).read_text() + "# changed\n")
        after = inputs(recipe)
        assert after != before
        before = after


def test_code_that_lies_on_pythonpath_is_followed(tmp_path, monkeypatch):
    for place in ("src", "elsewhere"):
        (tmp_path / place).mkdir()
    (tmp_path / "src/mynet_here.py").write_text("import json\nimport torch\nfrom wkblocks_here import block\n")
    (tmp_path / "src/wkblocks_here.py").write_text("def block(): ...\n")
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.syspath_prepend(str(tmp_path / "src"))
    assert [p.name for p in code.files("mynet_here")] == ["mynet_here.py", "wkblocks_here.py"]
