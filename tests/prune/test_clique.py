import numpy as np
import torch
from torch import nn

from edgeprune.prune.clique import cost, eliminate, improve_by_swaps, keep_exact, keep_greedy
from edgeprune.prune.criteria import CRITERIA
from edgeprune.prune.criteria.sirfp import similarity
from edgeprune.prune.groups import find_groups

B = np.array([[0, 2, 3, 0, 5], [2, 0, 1, 4, 1], [3, 1, 0, 0, 0], [0, 4, 0, 0, 5], [5, 1, 0, 5, 0]])
C = np.array([[0, 0, 2, 5], [0, 0, 2, 2], [2, 2, 0, 2], [5, 2, 2, 0]])


def test_vector_a_unpooled_maps_tell_channels_apart_that_pooling_cannot():
    f = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 1], [0.6, 0.4, 0, 0], [0, 0.5, 0.5, 0]]).reshape(1, 4, 2, 2)
    s = similarity(f)
    expected = torch.diag(torch.tensor([1, 1, 0.52, 0.5]))
    expected[0, 2] = expected[2, 0] = 0.6
    expected[2, 3] = expected[3, 2] = 0.2
    assert torch.allclose(s, expected, atol=1e-4)
    assert keep_greedy(s.abs().numpy(), 3).tolist() == [0, 1, 3]
    cosine = similarity(f, "cosine")
    assert abs(cosine[0, 2] - 0.8321) < 1e-4 and abs(cosine[2, 3] - 0.3922) < 1e-4
    assert keep_greedy(cosine.abs().numpy(), 3).tolist() == [0, 1, 3]
    assert f.mean(dim=(2, 3)).tolist() == [[0.25] * 4]  # a pooled measure sees four times the same
    pooled = similarity(f.mean(dim=(2, 3), keepdim=True))
    assert torch.allclose(pooled, torch.ones(4, 4), atol=1e-3)


def once(redundancy, keep):
    """The channels of the lowest sums, sorted once: not the paper's algorithm."""
    return np.sort(np.argsort(redundancy.sum(1), kind="stable")[:keep])


def test_the_diagonal_counts_where_asked():
    r = np.array([[9.0, 1, 0], [1, 0, 2], [0, 2, 0]])
    assert eliminate(r)[0].tolist() == [1, 0, 2]
    order, q = eliminate(r, diagonal=True)
    assert order.tolist() == [0, 1, 2] and q.tolist() == [10, 2, 0]


def test_vector_b_greedy_is_not_optimal():
    assert keep_greedy(B, 3).tolist() == [0, 2, 3] and cost(B, np.array([0, 2, 3])) == 3
    assert keep_exact(B, 3).tolist() == [1, 2, 4] and cost(B, np.array([1, 2, 4])) == 2
    assert eliminate(B)[1][[4, 1]].tolist() == [11, 7]
    assert once(B, 3).tolist() == [1, 2, 3] and cost(B, once(B, 3)) == 5


def test_vector_c_the_update_matters():
    assert keep_greedy(C, 2).tolist() == [0, 1] and eliminate(C)[1][[3, 2]].tolist() == [9, 4]
    assert cost(C, np.array([0, 1])) == 0 == cost(C, keep_exact(C, 2))
    assert once(C, 2).tolist() == [1, 2] and cost(C, once(C, 2)) == 2


def test_incremental_equals_naive_masks_are_nested_and_q_falls():
    rng = np.random.default_rng(0)
    r = np.abs(rng.normal(size=(40, 40)))
    r = r + r.T
    np.fill_diagonal(r, 0)
    order, q = eliminate(r)
    alive, naive = list(range(40)), []
    while alive:
        sums = r[np.ix_(alive, alive)].sum(1)
        naive.append(alive.pop(int(sums.argmax())))
    assert order.tolist() == naive
    assert (np.diff(q[order]) <= 1e-9).all()
    shuffle = rng.permutation(40)
    assert shuffle[eliminate(r[np.ix_(shuffle, shuffle)])[0]].tolist() == order.tolist()
    kept = keep_greedy(r, 12)
    assert cost(r, improve_by_swaps(r, kept)) <= cost(r, kept)


def test_a_duplicated_channel_goes_first():
    f = torch.eye(6).reshape(1, 6, 2, 3).repeat(1, 1, 1, 1)
    f[0, 4] = f[0, 1]
    assert eliminate(similarity(f).abs().numpy())[0][0] in (1, 4)


def test_absolute_value_is_taken_after_averaging():
    one = torch.tensor([[1.0, 0, 0, 0], [1.0, 0, 0, 0]]).reshape(1, 2, 2, 2)
    other = one.clone()
    other[0, 1] *= -1
    assert similarity(torch.cat([one, other])).abs()[0, 1] < 1e-6


def test_a_linear_layer_over_tokens_scores_as_the_same_convolution():
    class Both(nn.Module):
        def __init__(self, tokens):
            super().__init__()
            self.tokens, self.head = tokens, nn.Conv2d(10, 3, 1)
            self.mid = nn.Linear(3, 10) if tokens else nn.Conv2d(3, 10, 1)

        def forward(self, x):
            if not self.tokens:
                return self.head(self.mid(x))
            y = self.mid(x.flatten(2).transpose(1, 2))
            return self.head(y.transpose(1, 2).reshape(x.shape[0], -1, *x.shape[2:]))

    linear, conv, x = Both(True), Both(False), torch.randn(2, 3, 4, 4)
    conv.mid.weight.data, conv.mid.bias.data = linear.mid.weight.data[:, :, None, None], linear.mid.bias.data
    scores = []
    for net in (linear, conv):
        criterion = CRITERIA["sirfp"]()
        criterion.attach(net, find_groups(net, x).groups)
        net(x)
        scores.append(criterion.scores()["mid"])
    scores = [np.sort(s) for s in scores]  # the last two are alike: which of them goes first is a matter of rounding
    np.testing.assert_allclose(*scores, rtol=1e-4)
