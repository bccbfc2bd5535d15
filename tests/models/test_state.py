"""Weights are taken and read in training mode, whatever a layer does when it is set to evaluation."""

import pytest
import torch

from edgeprune.files import load_tensors, save_tensors
from edgeprune.models.state import load_weights, tensors_of, unchanged, weights_of
from tests.stages import unusual

X = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))


def merging():
    torch.manual_seed(0)
    net = unusual.Merges()
    torch.nn.init.normal_(net.c.offset)
    return net


@pytest.mark.parametrize("saved_in_training", [True, False])
@pytest.mark.parametrize("read_in_training", [True, False])
def test_merged_weights_answer_as_before_when_they_are_read(tmp_path, saved_in_training, read_in_training):
    net = merging().train(saved_in_training)
    save_tensors(tmp_path / "w.safetensors", weights_of(net))
    assert net.training == saved_in_training
    other = unusual.Merges().train(read_in_training)
    load_weights(other, load_tensors(tmp_path / "w.safetensors"))
    with torch.no_grad():
        torch.testing.assert_close(other.eval()(X), net.eval()(X))


def test_an_evaluation_on_the_way_leaves_the_very_bits():
    net = merging()
    net.a.eval()
    before = weights_of(net)
    with unchanged(net):
        net.eval()(X)
    assert net.training and not net.a.training and not net.c.merged
    assert all(torch.equal(value, before[name]) for name, value in tensors_of(net).items())


def test_extra_state_is_left_alone(tmp_path):
    net = unusual.Stamped()
    assert "_extra_state" in net.state_dict()
    assert all(isinstance(value, torch.Tensor) for value in weights_of(net).values())
    save_tensors(tmp_path / "w.safetensors", dict(net.state_dict()))
    load_weights(net, load_tensors(tmp_path / "w.safetensors"))


def test_other_tensors_are_refused():
    tensors = weights_of(unusual.Plain())
    with pytest.raises(RuntimeError, match=r"1 tensors do not match, the first is c\.bias \(missing\)"):
        load_weights(unusual.Plain(), {k: v for k, v in tensors.items() if k != "c.bias"})
    with pytest.raises(RuntimeError, match=r"more \(not of this network\)"):
        load_weights(unusual.Plain(), tensors | {"more": torch.zeros(1)})
