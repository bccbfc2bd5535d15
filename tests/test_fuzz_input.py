"""Whatever stands in a recipe, a target or a `--set`: it is read, or refused in one line. No other exception leaves."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeprune.arguments import check_arguments
from edgeprune.compatible import check_pair
from edgeprune.data import DATASETS, GIVEN
from edgeprune.documents import _paths, dotted
from edgeprune.errors import RecipeError
from edgeprune.recipe import Recipe, load_recipe
from edgeprune.shipped import shipped
from edgeprune.target import Target, load_target

RECIPE = """
name: small
model: {network: streetnet, args: {width: 8}}
data: {name: streets, size: [32, 64], args: {train: 4}}
train: {steps: 1}
prune: {method: l1, rounds: [{keep: 0.7x}]}
budget: {macs: 0.4x}
finetune: {steps: 1, distill: {logits: 1.0}}
deploy: {gates: {min_miou: 1}}
"""
TARGET = (shipped("deploy/targets") / "jetson.yaml").read_text()
BOARD = load_target("jetson")
ODD = (
    "2026-13-45", "2026-01-01", "0x_", "0x1F", "010", "1:30", "!!int x", "!!set {a}", "!!binary x", "!!timestamp x", "!!str", "9" * 400,
    ".inf", "-.nan", "1e400", "-1", "0", "1e-400", "true", "null", "~", "yes", "<<", "<<: 3", "&a [*a]", "*a", "{? [1] : 2}", "[", "}",
    "0.4", "0.4x", "40%", "1.5x", "x", "1.2.3x", "- - -", "a: b: c", "\0", "\ud800", "\x85", "\u2028", "%", "@", "'", '"', "'", "|", ">-",
    "[0, 0]", "[1e9, 1]", "[2.0, 0.5]", "[[1]]", "{}", "[]", "{a: 1, a: 2}", "=", "--- 1", "...", "99999999999999999999", "nan", "inf",
    r'"\UFFFFFFFF"', r'"\U00110000"', r'"\ud800"', "%YAML 1." + "9" * 5000, "!!float 0x" + "f" * 290, "!!int 0x" + "f" * 290,
)  # fmt: skip
KEYS = sorted({dotted(p) for p in _paths(Recipe)} | {dotted(p) for p in _paths(Target)})
# without subnormal numbers, which a run in this process turns off
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_subnormal=False)
    | st.text(max_size=8)
    | st.sampled_from(ODD)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
written = (
    st.sampled_from(ODD) | st.text(max_size=12) | values.map(lambda v: yaml.dump(v, default_flow_style=True, width=1e9))
)
keys = st.sampled_from(KEYS) | st.text(string.ascii_lowercase + "._[]0= ", max_size=12)
many = settings(max_examples=500, deadline=None, database=None, suppress_health_check=list(HealthCheck))


def only_ours(read: Callable[[], Any]) -> None:
    try:
        read()
    except RecipeError as error:
        assert len(str(error).splitlines()) == 1 and str(error) == str(error).strip()
        assert len(str(error)) < 2000


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "mine.yaml"


@many
@given(st.lists(st.tuples(keys, written), min_size=1, max_size=3))
def test_settings(file: Path, pairs: list[tuple[str, str]]):
    file.write_text(RECIPE)
    only_ours(lambda: check_pair(load_recipe(str(file), [f"{key}={value}" for key, value in pairs]), BOARD))


@many
@given(st.data(), st.sampled_from([RECIPE, TARGET]))
def test_documents(file: Path, data: st.DataObject, text: str):
    """A right document with one place replaced, cut out or doubled; or no document at all."""
    if data.draw(st.integers(0, 9)) == 0:
        whole = data.draw(written)
    else:
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 30)))
        whole = text[:start] + data.draw(written) + text[end:]
    file.write_bytes(whole.encode("utf-8", "surrogatepass"))
    if text is RECIPE:
        only_ours(lambda: check_pair(load_recipe(str(file)), BOARD))
    else:
        only_ours(lambda: load_target(str(file)))


@many
@given(st.sampled_from(sorted({p.split(".")[0] for p in KEYS})), values)
def test_sections(file: Path, section: str, value: Any):
    """A document whose section is anything that YAML can hold."""
    text = yaml.dump({section: value}, default_flow_style=True, width=1e9)
    for whole, load in ((RECIPE, load_recipe), (TARGET, load_target)):
        kept = "".join(t for t in whole.splitlines(keepends=True) if not t.startswith(f"{section}:"))
        file.write_bytes((kept + text.strip().removeprefix("{").removesuffix("}")).encode("utf-8", "surrogatepass"))
        only_ours(lambda load=load: load(str(file)))


@many
@given(
    st.sampled_from(sorted(DATASETS)),
    st.dictionaries(st.sampled_from(["train", "val", "seed", "classes", "ignore", "cache", "limit", "train_list"]) | st.text(max_size=4), values),
)  # fmt: skip
def test_arguments(name: str, args: dict[str, Any]):
    only_ours(lambda: check_arguments(DATASETS[name], args, where="data.args", whose=name, given=GIVEN))


@many
@given(st.text(max_size=300) | st.sampled_from(ODD), st.none() | st.text(max_size=5))
def test_names(name: str, host: str | None):
    only_ours(lambda: load_recipe(name))
    only_ours(lambda: load_target("cpu", host))
    only_ours(lambda: load_target(name))
