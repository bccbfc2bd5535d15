"""Detection: what anchors learn, the losses, and that numpy and torch agree on offsets and overlaps."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from edgeprune import models
from edgeprune.models import boxes as plain
from edgeprune.recipe import Loss
from edgeprune.train import boxes
from tests.models.small import SMALL

rng = np.random.default_rng(0)
CORNERS = rng.uniform(0, 60, (9, 2))
BOXES = np.concatenate([CORNERS, CORNERS + rng.uniform(4, 30, (9, 2))], 1).astype(np.float32)
ANCHORS = BOXES[::-1].copy()


def rows(*labels):
    made = torch.zeros(6, 6)
    made[:, 4] = -1
    made[: len(labels)] = torch.tensor(labels, dtype=torch.float32).reshape(-1, 6)
    return made


def test_offsets_go_back_and_numpy_is_torch():
    offsets = plain.encode(BOXES, ANCHORS)
    np.testing.assert_allclose(plain.decode(offsets, ANCHORS), BOXES, atol=1e-3)
    there = boxes.encode(torch.from_numpy(BOXES), torch.from_numpy(ANCHORS))
    np.testing.assert_allclose(there.numpy(), offsets, atol=1e-4)
    over = boxes.overlaps(torch.from_numpy(BOXES), torch.from_numpy(ANCHORS)).numpy()
    np.testing.assert_allclose(over, plain.overlaps(BOXES, ANCHORS), atol=1e-5)
    assert np.allclose(np.diag(plain.overlaps(BOXES, BOXES)), 1)


def test_suppression_and_classes_apart():
    anchors = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]], np.float32)
    heads = np.full((3, 6), -20, np.float32)
    heads[:, 2:] = 0
    heads[0, 0], heads[1, 0], heads[1, 1], heads[2, 1] = 3, 2, 1, -20
    found = plain.detections(heads, anchors, (25, 40))
    assert found[:, 4].tolist() == [0, 1] and found[0, :4].tolist() == [0, 0, 10, 10] and found[1, 3] == 9
    heads[2, 1] = 5  # the best one, cut at the image's lower edge
    found = plain.detections(heads, anchors, (25, 40))
    assert found[0].tolist()[:5] == [20, 20, 30, 25, 1] and (np.diff(found[:, 5]) <= 0).all()
    assert plain.detections(np.full((3, 6), -20, np.float32), anchors, (25, 40)).shape == (0, 6)


def test_the_network_has_an_answer_for_every_anchor():
    net = models.build("ssd", SMALL["ssd"], None, 3).eval()
    for size in ((64, 96), (57, 130)):
        heads = net(torch.zeros(1, 3, *size))
        assert heads.shape == (1, len(net.anchors(size)), 7)
    first = net.anchors((64, 96))[:4]  # of stride 8: four shapes around (4, 4)
    np.testing.assert_allclose(plain.centred(first)[:, :2], 4)
    assert plain.centred(first)[1].tolist() == [4, 4, 32, 32]


def test_what_anchors_learn():
    anchors = torch.tensor(
        [[0, 0, 10, 10], [0, 0, 10, 22], [50, 50, 60, 60], [100, 0, 110, 10], [70, 0, 84, 10]], dtype=torch.float32
    )
    labels = rows([0, 0, 10, 10, 1, 0], [50, 50, 60, 61, 0, 1], [70, 0, 80, 40, 2, 0])
    # fits, 0.45 is neither, not judged, nothing near, 0.2 but the best of its box
    assert boxes.assign(anchors, labels).tolist() == [0, -2, -2, -1, 2]
    assert boxes.assign(anchors, rows()).tolist() == [-1] * 5


def test_inside_a_crowd_nothing_is_learnt():
    """Not even that nothing is there: an anchor overlaps a crowd by little and lies in it whole."""
    anchors = torch.tensor([[10, 10, 20, 20], [95, 95, 115, 115], [150, 0, 160, 10]], dtype=torch.float32)
    assert boxes.assign(anchors, rows([0, 0, 100, 100, 1, 2])).tolist() == [-2, -1, -1]
    assert boxes.assign(anchors, rows([0, 0, 100, 100, 1, 1])).tolist() == [-1, -1, -1]
    assert boxes.assign(anchors, rows([0, 0, 100, 100, 1, 2], [10, 10, 20, 22, 0, 0])).tolist() == [1, -1, -1]


def test_focal_loss_without_its_focus_is_cross_entropy():
    logits, wanted = torch.randn(7, 3), torch.randint(0, 2, (7, 3)).float()
    each = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    torch.testing.assert_close(boxes.focal(logits, wanted, 0.0, 0.5), each / 2)
    sure = boxes.focal(torch.tensor([4.0]), torch.tensor([1.0]), 2.0, 0.25)
    miss = 1 - 1 / (1 + np.exp(-4))
    assert float(sure) == pytest.approx(0.25 * miss**2 * -np.log(1 - miss), rel=1e-4)


def test_a_detector_learns_one_image():
    torch.manual_seed(0)
    size = (64, 64)
    net = models.build("ssd", SMALL["ssd"], None, 2).train()
    anchors = torch.from_numpy(net.anchors(size))
    image, labels = torch.randn(2, 3, *size), torch.stack([rows([8, 8, 40, 40, 0, 0]), rows([20, 30, 60, 60, 1, 0])])
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3)
    losses = []
    for _ in range(40):
        loss = boxes.detection_loss(net(image), labels, anchors, Loss(kind="focal"))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0]
    heads = net(image).detach().numpy()  # norms as in training: two images are no statistics
    for found, truth in zip((plain.detections(h, anchors.numpy(), size) for h in heads), labels, strict=True):
        assert found[0, 4] == truth[0, 4] and plain.overlaps(found[:1], truth[:1].numpy())[0, 0] > 0.7


def test_divergence_counts_classes_and_boxes_and_vanishes_for_itself():
    heads = torch.randn(2, 11, 7)
    assert float(boxes.divergence(heads, heads)) == 0
    classes, places = heads.clone(), heads.clone()
    classes[..., 0] += 1
    places[..., -1] += 1
    assert boxes.divergence(classes, heads) > 0 and boxes.divergence(places, heads) > 0
    faint = heads.clone()
    faint[..., :-4] = -15  # nothing is there: where it would be does not count
    moved = faint.clone()
    moved[..., -1] += 1
    assert boxes.divergence(moved, faint) < 1e-3
