"""Long lists of names in a message are shortened; a line stays a line."""

import numpy as np
import pytest

from edgeprune.data import open_dataset
from edgeprune.data.labels import unfit
from edgeprune.errors import DataError, few

MANY = [f"class {n}" for n in range(300)]


def test_some_names_and_how_many_others():
    assert few(MANY, 2) == "class 0, class 1 and 298 more"
    assert few(["a", 2]) == "a, 2" and few([]) == "none"
    assert len(few(["x" * 500])) == 60


def test_three_hundred_classes_do_not_fill_a_message(tmp_path):
    with pytest.raises(DataError, match=r"data.args.classes: .*class 5 and 294 more$"):
        open_dataset("folder", tmp_path, "train", (32, 48), classes=MANY)
    one = np.eye(1, 300, dtype=bool)[0]
    assert "class 6 and 293 more" in str(unfit("segmentation", "train", MANY, one, 8))
