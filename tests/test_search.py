"""What a search makes of a recipe for methods other than its own."""

import pytest

from edgeprune.errors import RecipeError
from edgeprune.recipe import load_recipe
from edgeprune.search import points
from edgeprune.target import load_target


def test_methods_that_must_train_get_the_recipes_training_and_others_none():
    settings = [
        "prune.method=cap", "prune.args={strength: 0.01}", "prune.sparsity={steps: 3}",
        "prune.rounds=[{keep: 0.7x, args: {strength: 0.1}, sparsity: {steps: 2}}]",
    ]  # fmt: skip
    found = points(load_recipe("quickstart", settings), load_target("cpu"), ["macs=0.5x"], ["cap", "ns", "l1", "sirfp"])
    cap, ns, l1, sirfp = (made.prune for made in found.values())
    assert cap.args == {"strength": 0.01} and cap.rounds[0].args == {"strength": 0.1}
    assert ns.sparsity == cap.sparsity and ns.args == {} and ns.rounds[0].args is None
    assert l1.sparsity is None and l1.rounds[0].sparsity is None and l1.rounds[0].keep == "0.7x"
    assert sirfp.sparsity is None  # it can do without


def test_a_method_that_trains_without_a_schedule_is_refused_before_anything_begins():
    with pytest.raises(RecipeError, match="prune.sparsity is missing: acosp"):
        points(load_recipe("quickstart"), load_target("cpu"), ["macs=0.5x"], ["l1", "acosp"])
