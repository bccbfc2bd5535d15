"""`data.std` above 1 is told and not refused: published networks are trained so."""

import pytest

from edgeprune.errors import RecipeError
from edgeprune.recipe import load_recipe


def test_a_std_above_one_is_a_warning(cli):
    status, _, err = cli("check", "quickstart", "--set", "data.std=[57.4,57.1,58.4]")
    assert status == 0 and "data.std: [57.4, 57.1, 58.4] is above 1" in err and "divided by 255" in err
    status, _, err = cli("check", "quickstart", "--set", "data.std=[1,1,1]")
    assert status == 0 and "data.std" not in err


@pytest.mark.parametrize("value", ["[0.2,0,0.2]", "[-0.2,0.2,0.2]", "[.inf,1,1]", "[.nan,1,1]", "[1,1]"])
def test_what_cannot_divide_is_refused(value):
    with pytest.raises(RecipeError, match=r"data\.std"):
        load_recipe("quickstart", [f"data.std={value}"])


def test_a_mean_above_one_is_refused():
    with pytest.raises(RecipeError, match=r"data\.mean.*divide those of 0 to 255 by 255"):
        load_recipe("quickstart", ["data.mean=[123.7,116.3,103.5]"])
