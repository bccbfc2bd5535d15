"""What users write, in files and in `--set`: each slip is a RecipeError of one line that says where, what, and what was meant."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from torch.onnx._constants import ONNX_MAX_OPSET

from edgeprune.documents import mapping
from edgeprune.errors import RecipeError, UsageError
from edgeprune.plain_yaml import YamlFault, parse, write
from edgeprune.recipe import load_recipe
from edgeprune.recipe.deploying import HIGHEST_OPSET
from edgeprune.shipped import shipped
from edgeprune.target import load_target

REFUSED = {
    "!!int abc": "'abc' is not a number",
    "!!float x": "'x' is not a number",
    "!!bool maybe": "'maybe' is not true or false",
    "!!null x": "'x' is not null",
    "9" * 6000: "a number of 6,000 characters",
    "-" + "9" * 400 + ".5": "a number of 403 characters",
    "[" * 3000: "more than 50 levels",
    "- " * 60: "more than 50 levels",
    "[" + "1," * 20_000 + "]": "more than 10,000 values",
    "a\0b": "U+0000",
    "a: 1\nb: \x07": "U+0007",
    '"\\0"': "NUL",
    '"\\ud800"': "UTF-8",
    "!!set {a}": "'tag:yaml.org,2002:set'",
    "!!binary aGk=": "'tag:yaml.org,2002:binary'",
    "!!timestamp x": "'tag:yaml.org,2002:timestamp'",
    "!!python/name:os.system x": "python/name",
    "!mine x": "'!mine'",
    "!!str [1]": "before a list or mapping",
    "!!int {a: 1}": "before a list or mapping",
    "&a [*a]": "refer to itself",
    "&a {x: *a}": "refer to itself",
    "&a {<<: *a}": "refer to itself",
    "<<: 3": "merging",
    "a: {b: 1, b: 2}": "a.b stands twice (also in line 1)",
    "1: 2": "the key '1' is not text",
    "true: 2": "the key 'true' is not text",
    "2026-01-01: 2\n? [1]\n: 2": "is not text",
    "1e400": "finite",
    ".nan": "finite",
    "[-.inf]": "finite",
    "a: b: c": "not YAML",
    "--- 1\n--- 2": "not YAML",
    "*x": "not YAML",
    r'"\UFFFFFFFF"': "not YAML",
    r'"\U00110000"': "not YAML",
    "%YAML 1." + "9" * 5000 + "\n--- 1": "not YAML",
    "!!float 0x" + "f" * 290: "larger than any float",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda t: ascii(t[:20]))
def test_what_is_no_plain_value_is_refused_with_its_line(text):
    with pytest.raises(YamlFault) as fault:
        parse(text)
    assert REFUSED[text] in fault.value.why and "\n" not in fault.value.why
    assert fault.value.line is not None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2026-13-45", "2026-13-45"), ("2026-01-01", "2026-01-01"), ("0x_", "0x_"), ("1:30", "1:30"),  # text, as it looks
        ("010", 10), ("0x1F", 31), ("0o17", 15), ("40_000", 40_000), ("-3", -3), ("+1", 1),
        ("1e-4", 1e-4), ("-1.5E+2", -150.0), (".5", 0.5), ("5.", 5.0), ("!!float 3", 3.0),
        ("yes", True), ("off", False), ("~", None), ("", None), ("=", "="), ("!!str 3", "3"),
        ("{a: &x {b: 1}, c: {<<: *x, d: 2}}", {"a": {"b": 1}, "c": {"b": 1, "d": 2}}),
    ],
)  # fmt: skip
def test_plain_values(text, value):
    found, _ = parse(text)
    assert found == value and type(found) is type(value)


TEXTS = [
    "1e4",
    "1e-4",
    "0o7",
    "0x1F",
    "010",
    "1:30",
    "yes",
    "null",
    "~",
    "",
    "2026-01-01",
    "1_000",
    "-.inf",
    "<<",
    "=",
    "a: b",
    "#",
    "é",
]


def test_what_is_written_reads_back_as_it_was():
    """Text that either YAML reader takes for a number is quoted; numbers are not."""
    whole = {"texts": TEXTS, "keys": dict.fromkeys(TEXTS, 1), "numbers": [1e4, 1e-5, 7, -0.5, True, None]}
    assert parse(write(whole))[0] == whole == yaml.safe_load(write(whole))


def test_a_recipe_that_check_prints_is_the_same_recipe(cli, tmp_path: Path):
    recipe = ["quickstart", "--set", "name='1e4'", "--set", "title='0o7'"]
    code, out, err = cli("check", *recipe)
    assert code == 0, err
    (tmp_path / "again.yaml").write_text(out)
    assert load_recipe(str(tmp_path / "again.yaml")) == load_recipe("quickstart", ["name='1e4'", "title='0o7'"])


@pytest.mark.parametrize("opset", [17, 24, 99999])
def test_an_opset_that_the_exporter_has_not(opset):
    assert HIGHEST_OPSET <= ONNX_MAX_OPSET
    with pytest.raises(RecipeError, match=r"deploy\.opset: input should be (less|greater) than or equal to"):
        load_recipe("quickstart", [f"deploy.opset={opset}"])


def test_what_an_alias_stands_for_is_changed_in_one_place_only(tmp_path: Path):
    text = (shipped("recipes") / "quickstart.yaml").read_text()
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("  augment: {", "  augment: &a {", 1) + "\n")
    other = text.index("finetune:")
    path.write_text(
        text[:other].replace("augment: {", "augment: &a {")
        + text[other:].replace("augment: {scale: [0.75, 1.5], flip: 0.5, color: 0.3}", "augment: *a")
    )
    recipe = load_recipe(str(path), ["train.augment.flip=0.1"])
    assert recipe.train and (recipe.train.augment.flip, recipe.finetune.augment.flip) == (0.1, 0.5)


QUICK = str(shipped("recipes") / "quickstart.yaml")
SETTINGS = {
    # where it was written
    ("data.size=[0,0]",): "--set data.size=[0,0]: data.size[0]: input should be greater than 0",
    ("data={name: streets, size: [32, x]}",): "--set data={name: streets, size: [32, x]}: data.size[1]",
    ("budget.macs=0.4x", "budget=null"): "--set budget=null: budget: must be keys with their values, not null",
    ("budget=3",): "--set budget=3: budget: must be keys with their values, not 3",
    (
        "budget.macs=0.4x",
        "budget.params=0.4x",
    ): "with --set budget.macs=0.4x, --set budget.params=0.4x: budget: give ex",
    ("train=null",): "with --set train=null: model.checkpoint and train are both missing",
    ("model.args=&a {x: *a}",): "--set model.args=&a {x: *a}: more than any recipe holds",
    ("name=a\nb",): "--set name=a\\nb: name: ",
    # how a setting is written
    ("=x",): "write key=value",
    ("train..lr=1",): "write key=value",
    (".train=1",): "write key=value",
    ("train.=1",): "write key=value",
    ("data.size.0=64",): "data.size is a list; set it as a whole, such as --set data.size=[…]",
    ("prune.rounds.0.keep=0.5x",): "valid list",
    ("data.size[0]=64",): "data.size[0]: unknown key; did you mean size?",
    # a value of another type
    ("seed=2026-13-45",): "valid integer, not '2026-13-45'",
    ("seed=0x_",): "valid integer, not '0x_'",
    ("seed=true",): "valid integer, not true",
    ("seed=1.0",): "valid integer, not 1.0",
    ("seed=99999999999999999999",): "less than 4294967296",
    ("train.steps=true",): "valid integer, not true",
    ("train.steps='10'",): "valid integer, not '10'",
    ("train.lr='0.1'",): "valid number, not '0.1'",
    ("train.lr=yes",): "valid number, not true",
    ("train.nesterov=1",): "valid boolean, not 1",
    ("train.nesterov='yes'",): "valid boolean, not 'yes'",
    ("data.size=[128.0, 256]",): "valid integer, not 128.0",
    ("title=3",): "valid string, not 3",
    ("data.root=[/a]",): "valid string",
    ("deploy=null",): "must be keys with their values, not null",
    ("train.loss=ce",): "must be keys with their values, not 'ce'",
    # nonsense
    ("budget.macs=.inf",): "finite",
    ("budget.latency_ms=1e400",): "finite",
    ("train.augment.scale=[2.0,0.5]",): "the least comes first: [0.5, 2.0]",
    ("train.augment.scale=[1e6,1e7]",): "less than or equal to 20",
    ("data.size=[100000,100000]",): "less than or equal to 65535",
    ("data.workers=1000000",): "less than or equal to 256",
    ("threads=1000000",): "less than or equal to 1024",
    ("deploy.latency_runs=1000000000000",): "less than or equal to 100000",
    ("train.steps=1000000000000",): "less than or equal to 1000000000",
    ("train.epochs=1e300",): "less than or equal to 1000000",
    ("name=" + "a" * 300,): "at most 100 characters",
    # what was meant
    ("budget.macs=0.4",): "0.4 leaves no network; did you mean 0.4x?",
    ("budget.params=1",): "did you mean 1x?",
    ("budget.channels=40%",): "did you mean 0.4x?",
    ("budget.macs=0.4X",): "did you mean 0.4x?",
    ("budget.macs=true",): "not true",
    ("budget.latency=0.5",): "did you mean 0.5x?",
    ("budget.latency=12",): "did you mean budget.latency_ms=12?",
    ("budget.latency=0x",): "a share lies between 0x and 1x",
    ("budget.latency=1.2.3x",): "write a share",
    ("budget.latency_ms=0.5x",): "did you mean budget.latency=0.5x?",
    ("target=cpu",): "target: unknown key; did you mean the option --target cpu?",
    ("host=user@board",): "did you mean the option --host user@board?",
    ("runs-dir=/runs",): "did you mean the option --runs-dir /runs?",
    ("steps=10",): "steps: unknown key; did you mean train.steps or finetune.steps",
    ("networc=segnet",): "did you mean model.network?",
    ("latency=0.5x",): "did you mean budget.latency?",
    ("data.precision=f16",): "data.precision: unknown key; did you mean deploy.precision?",
    ("deploy.min_miou=3",): "did you mean deploy.gates.min_miou?",
    ("network=segnet",): "did you mean model.network?",
}


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: ascii(s[0][:40]))
def test_settings_are_refused_by_what_was_meant(settings):
    with pytest.raises(RecipeError) as fault:
        load_recipe("quickstart", list(settings))
    assert SETTINGS[settings] in str(fault.value) and "\n" not in str(fault.value)


def test_whole_numbers_are_taken_for_others():
    recipe = load_recipe("quickstart", ["train.lr=1", "data.std=[1, 1, 1]", "budget.macs=5000000"])
    assert recipe.train and (recipe.train.lr, recipe.data.std, recipe.budget.macs) == (1.0, (1.0, 1.0, 1.0), 5e6)


FILES = {
    "seed: 2026-13-45": "valid integer",
    "seed: !!int abc": "'abc' is not a number",
    "title: \0": "U+0000",
    "seed: " + "9" * 5000: "a number of 5,000 characters",
    "data: " + "[" * 3000: "more than 50 levels",
    "seed: .inf": "finite",
    "steps: 3": "did you mean train.steps or finetune.steps",
}


@pytest.mark.parametrize("line", FILES, ids=lambda t: ascii(t[:20]))
def test_a_recipe_names_its_file_and_line(tmp_path: Path, line):
    path = tmp_path / "mine.yaml"
    text = (shipped("recipes") / "quickstart.yaml").read_text().replace("\nseed: 0\n", "\n")
    path.write_text(f"{text}{line}\n")
    with pytest.raises(RecipeError) as fault:
        load_recipe(str(path))
    assert str(fault.value).startswith(f"{path}:{len(text.splitlines()) + 1}: ") and FILES[line] in str(fault.value)
    assert "\n" not in str(fault.value)


TARGETS = {
    "threads: true": "valid integer, not true",
    "threads: 1000000": "less than or equal to 1024",
    "cool_below_c: hot": "valid number",
    "run_seconds: 1000000000000": "less than or equal to",
    "host: -oProxyCommand=x": "string should match pattern",
    "host: ''": "string should match pattern",
    "catalogue: {chip: x, source: y, memory_gb: .nan}": "finite",
    "ssh: 22": "valid list",
    "device: 0": "valid string",
}


@pytest.mark.parametrize("line", TARGETS)
def test_a_target_is_read_as_strictly(tmp_path: Path, line):
    path = tmp_path / "mine.yaml"
    key = line.partition(":")[0]
    text = "".join(
        t for t in (shipped("deploy/targets") / "cpu.yaml").read_text().splitlines(keepends=True) if key not in t
    )
    path.write_text(f"{text}{line}\n")
    with pytest.raises(RecipeError) as fault:
        load_target(str(path))
    assert str(fault.value).startswith(f"{path}:{len(text.splitlines()) + 1}: ") and TARGETS[line] in str(fault.value)


@pytest.mark.parametrize("name", ["a" * 5000, "/" + "a" * 5000, "a/\0", "x\ny", "/proc/self/mem"])
def test_names_that_no_file_can_have(name):
    for load in (load_recipe, load_target):
        with pytest.raises(RecipeError) as fault:
            load(name)
        assert "\n" not in str(fault.value) and len(str(fault.value)) < 1500


@pytest.mark.parametrize("text", ["2026-13-45", "[1]", "{a: &x [*x]}", "!!int x", "", "{classes: [a"])
def test_the_mapping_of_an_option(text):
    with pytest.raises(UsageError, match=r"--args: .*write a mapping such as '\{classes: \[a\]\}'"):
        mapping(text, "--args", "{classes: [a]}")
