"""Weights are taken and read in training mode, whatever a layer does when it is set to evaluation."""

import pytest
import torch

from edgeprune.files import load_tensors, save_tensors
from edgeprune.models.state import load_unsaved, load_weights, tensors_of, unchanged, unsaved_of, weights_of
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


class Remembers(unusual.Plain):
    """Keeps what is no part of its state_dict, and a buffer whose name ends as PyTorch's extra state does."""

    def __init__(self):
        super().__init__()
        self.register_buffer("recent", torch.zeros(12), persistent=False)
        self.register_buffer("grid", None, persistent=False)
        self.register_buffer("my_extra_state", torch.zeros(2))

    def between(self, y):
        self.recent += y.detach().mean((0, 2, 3))
        self.grid = y.detach()[0, 0]
        return y


def test_what_the_state_dict_leaves_out_is_put_back_too():
    net = Remembers()
    with torch.no_grad():
        net(X)
        before, grid = net.recent.clone(), net.grid
        with unchanged(net):
            net(X[..., :16, :16] + 1)
            assert not torch.equal(net.recent, before)
    assert torch.equal(net.recent, before) and torch.equal(net.grid, grid)


def test_what_is_kept_of_a_network_is_read_into_a_fresh_one():
    net, fresh = Remembers(), Remembers()
    net(X)
    load_unsaved(fresh, unsaved_of(net))
    assert torch.equal(fresh.recent, net.recent) and torch.equal(fresh.grid, net.grid)


def test_only_the_very_name_is_extra_state():
    assert "my_extra_state" in weights_of(Remembers())
    tensors = {k: v for k, v in weights_of(Remembers()).items() if k != "my_extra_state"}
    with pytest.raises(RuntimeError, match=r"my_extra_state \(missing\)"):
        load_weights(Remembers(), tensors)
