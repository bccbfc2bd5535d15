import pytest

from edgeprune.deploy.table import judged_by
from edgeprune.recipe import Evaluate


@pytest.mark.parametrize(
    ("protocol", "words"),
    [
        (Evaluate(), "judged on whole images"),
        (Evaluate(mode="slide", native=True), "judged by sliding windows at the labels' own size"),
        (Evaluate(flip=True, scales=[0.5, 1.0]), "judged on whole images with flips at scales 0.5, 1"),
    ],
)
def test_the_protocol_in_words(protocol, words):
    assert judged_by(protocol.model_dump(mode="json")) == words
