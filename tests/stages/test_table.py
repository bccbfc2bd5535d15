"""Which keys of the recipe a stage hangs on."""

from types import SimpleNamespace

import pytest

from edgeprune import pipeline
from edgeprune.recipe import Deploy, load_recipe
from edgeprune.stages import table


@pytest.mark.parametrize(
    ("settings", "first"),
    [
        ("deploy.gates.min_miou=50", "verify"),
        ("deploy.gates.pixel_agreement=0.9 deploy.head=argmax", "verify"),
        ("deploy.latency_runs=9", "verify"),
        ("deploy.parity_images=3", "bundle"),
        ("deploy.gates.pixel_agreement=0.9", "profile"),  # it has a say in the head
        ("deploy.gates.min_miou=50 deploy.precision=fastest", "precision"),
        ("deploy.simplify=false", "simplify"),
        ("deploy.calibration_images=3", "simplify"),
        ("deploy.logits=true", "profile"),
        ("finetune.lr=0.5", "finetune"),
        ("prune.never=[stem]", "profile"),
        ("model.args.width=16", "load"),
    ],
)
def test_a_changed_key_does_again_what_hangs_on_it_and_nothing_before(settings, first):
    keys = settings.split()
    before = [*keys[1:]]  # the rest has been so before
    run = SimpleNamespace(recipe=load_recipe("quickstart", before))
    other = SimpleNamespace(recipe=load_recipe("quickstart", keys))
    changed = [s.name for s in table.STAGES if pipeline._parts(run, s) != pipeline._parts(other, s)]
    assert changed[0] == first


@pytest.mark.parametrize("key", sorted(Deploy.model_fields))
def test_every_key_of_the_engine_is_some_stages(key):
    recipe = load_recipe("quickstart")
    known = {name for s in table.STAGES for name in (*s.depends, *s.also(recipe))}
    assert f"deploy.{key}" in known or "deploy" in known


@pytest.mark.parametrize("settings", [[], ["finetune=null"], ["budget.latency=0.5x"]])
def test_every_key_is_found_also_in_the_version_before_and_where_a_section_is_null(settings):
    run = SimpleNamespace(recipe=load_recipe("quickstart", settings))
    for stage in table.STAGES:
        for then in (False, True):
            pipeline._parts(run, stage, then)
    prune = next(s for s in table.STAGES if s.name == "prune")
    assert ("finetune" in pipeline._parts(run, prune, then=True)) == (settings == ["budget.latency=0.5x"])
