"""What the program has written itself and reads back: a changed or foreign file is one line, or made again, and never believed."""

import json
import sqlite3
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from torch import nn

import edgeprune
from edgeprune import models
from edgeprune.errors import EdgepruneError
from edgeprune.files import read_json, seal, sealed
from edgeprune.profile.probes import Key
from edgeprune.profile.table import Table, Where
from edgeprune.prune.artefact import save_pruned
from edgeprune.prune.groups import find_groups
from edgeprune.prune.plan import make_plan
from edgeprune.runtime.signature import Signature
from edgeprune.stages import manifest, notes, results
from tests.models.small import SMALL
from tests.mutants import mutants

RECORD = {
    "key": "k", "recipe": "r", "seconds": 2.5, "versions": {"torch": "2"}, "files": {"load/weights": "00"},
    "facts": {"miou": 0.75, "passed": False, "per_class": {"road": None}, "list": (1, 2), 3: "three"}, "asked": [None, "x", {"cores": 2}],
}  # fmt: skip
STAGES = ("load", "verify")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.mark.parametrize("change", [{"miou": 0.76}, {"passed": True}, {"passed": 0}, {"more": 1}, {"list": [2, 1]}])
def test_changed_facts_are_not_believed(home, change):
    manifest.keep(home, "load", RECORD)
    kept = manifest.record(home, "load")
    assert kept and kept["facts"]["miou"] == 0.75 and manifest.changed(home, "load") is None
    content = read_json(home / "manifest.json")
    content["stages"]["load"]["facts"] |= change
    (home / "manifest.json").write_text(json.dumps(content))
    assert manifest.record(home, "load") is None
    assert "the record of stage load was changed, or written by an earlier version" in str(
        manifest.changed(home, "load")
    )


def test_a_record_of_an_earlier_version_is_not_believed(home):
    (home / "manifest.json").write_text(json.dumps({"schema": 1, "stages": {"load": RECORD | {"facts": {}}}}))
    assert manifest.record(home, "load") is None and manifest.changed(home, "load")


@pytest.mark.parametrize("change", [
    {"key": None}, {"facts": []}, {"files": {"../../x": "00"}}, {"files": {"/etc/passwd": "00"}}, {"files": {"load/../../x": "00"}},
    {"files": {"load/a": 3}}, {"seconds": "2"}, {"versions": None},
])  # fmt: skip
def test_a_record_that_holds_something_else_is_not_believed_whatever_its_seal(home, change):
    for record in (RECORD | change, {k: v for k, v in RECORD.items() if k not in change}):
        manifest.keep(home, "load", record)
        assert manifest.record(home, "load") is None and "was changed" in str(manifest.changed(home, "load"))


@pytest.mark.parametrize(
    "content", [{}, {"key": "k"}, {"key": "k", "began": "x", "before": 1.0}, {"key": "k", "began": 1.0}]
)
def test_a_sealed_note_of_an_attempt_without_its_times(tmp_path, content):
    (tmp_path / ".began").write_text(json.dumps(seal(content)))
    assert results.spent_before(tmp_path, "k") == 0.0


@pytest.mark.parametrize(
    "content", ["{}", "[]", "null", '{"stages": []}', '{"stages": {}', "\xff", '{"stages": NaN}', "[" * 99_999]
)
def test_what_is_no_manifest_is_one_line(home, content):
    (home / "manifest.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(EdgepruneError, match=r"manifest\.json: .*delete it and run again") as told:
        manifest.records(home)
    assert "\n" not in str(told.value)


def whole() -> dict:
    return {"schema": 2, "stages": {name: json.loads(json.dumps(seal(RECORD))) for name in STAGES}}


@given(mutants(whole()))
@settings(max_examples=500, deadline=None)
def test_any_change_of_a_manifest_is_seen(home, content):
    (home / "manifest.json").write_text(json.dumps(content))
    for stage in STAGES:
        try:
            found, why = manifest.record(home, stage), manifest.changed(home, stage)
        except EdgepruneError as error:
            assert "\n" not in str(error)
            continue
        stands = content["stages"].get(stage)
        assert (found is None) == (json.dumps(stands) != json.dumps(whole()["stages"][stage])) or found == stands
        assert found is None or found == whole()["stages"][stage]
        assert (why is None) == (found is not None or stands is None)


@given(mutants({"key": "this one", "loss": {"a": 0.25}, "engines": [{"ms": 1.5}]}))
@settings(max_examples=500, deadline=None)
def test_notes_are_as_they_were_written_or_none(home, content):
    good = {"key": "this one", "loss": {"a": 0.25}, "engines": [{"ms": 1.5}]}
    whole = {**content, "digest": seal(good)["digest"]} if isinstance(content, dict) else content
    (home / "notes.json").write_text(json.dumps(whole))
    assert notes.told(home / "notes.json", "this one") in ({}, seal(good))
    assert notes.belong(home / "notes.json", "this") in (True, False)
    assert not sealed(content)


@pytest.mark.parametrize("content", ["[]", '{"key": "k", "began": "x", "before": {}}', '{"key": "k"}', "NaN", "{"])
def test_time_spent_before_is_told_by_whole_files_only(tmp_path, content):
    (tmp_path / ".began").write_text(content)
    assert results.spent_before(tmp_path, "k") == 0.0
    assert results.spent_before(tmp_path, "k") >= 0.0


@pytest.fixture(scope="module")
def pruned(tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("pruned")
    torch.manual_seed(0)
    args = SMALL["segnet"]
    net = models.build("segnet", args, None, 3).eval()
    graph = find_groups(net, torch.zeros(1, 3, 32, 64))
    plan = make_plan(net, graph, {graph.groups[0].name: range(2)})
    from edgeprune.prune.surgery import shrink

    save_pruned(folder, shrink(net, plan), plan, {"network": "segnet", "args": args, "factory": None, "classes": 3})
    return folder, read_json(folder / "plan.json")


def test_any_change_of_a_plan_is_one_line_or_a_network(pruned):
    folder, good = pruned
    assert isinstance(edgeprune.load(folder), nn.Module)
    short = good | {"tensors": dict(list(good["tensors"].items())[:2])}

    @given(mutants(good | {"groups": dict(list(good["groups"].items())[:2])}) | mutants(short))
    @settings(max_examples=500, deadline=None)
    def change(content):
        (folder / "plan.json").write_text(json.dumps(content))
        try:
            edgeprune.load(folder)
        except EdgepruneError as error:
            assert "\n" not in str(error)

    change()


@pytest.mark.parametrize("change", [{"classes": 60_000}, {"args": {"widths": [[4, 60_000], [60_000, 8]]}}])
def test_no_memory_is_taken_for_what_a_changed_plan_claims(pruned, change, monkeypatch):
    folder, good = pruned
    (folder / "plan.json").write_text(json.dumps(good | {"network": good["network"] | change}))
    built = models.build
    on_what = []
    monkeypatch.setattr(models, "build", lambda *a: on_what.append(torch.empty(0).device.type) or built(*a))
    with pytest.raises(EdgepruneError, match="another structure"):
        edgeprune.load(folder)
    assert on_what == ["meta"]


ROWS = [
    "ms = 'quick'",
    "ms = -1.0",
    "ms = 9e999",
    "ms = x'00'",
    "inputs = 'many'",
    "outputs = -3",
    "outputs = 2.5",
]


@pytest.mark.parametrize("change", ROWS)
def test_a_row_of_the_latency_table_that_is_no_measurement_is_measured_again(tmp_path, change):
    s, here = Signature("conv", (3, 3), (1, 1), (1, 1), (1, 1), 1, (32, 64)), Where({"cpu": "a"}, "openvino 1", "f32")
    table = Table(tmp_path / "t.sqlite")
    table.add(here, {Key(s, 16, 32): 1.5, Key(s, 8, 32): 1.0})
    table.close()
    with sqlite3.connect(tmp_path / "t.sqlite") as base:
        base.execute(f"UPDATE operators SET {change} WHERE inputs = 16")
        base.execute("UPDATE devices SET fingerprint = '[1'")
    again = Table(tmp_path / "t.sqlite")
    assert again.times(here, [s]) == {Key(s, 8, 32): 1.0}
    (row,) = again.known()
    assert row["count"] == 1 and row["fingerprint"] == {} and again.curve(row) == [(8, 32, 1.0)]
