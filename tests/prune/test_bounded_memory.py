"""What a criterion holds after many batches is what it held after a few: statistics, never the maps themselves."""

import numpy as np
import pytest
import torch
from torch import nn

from edgeprune import models
from edgeprune.prune.criteria import CRITERIA
from edgeprune.prune.groups import find_groups

CLASSES = 5
WATCHING = [n for n, made in CRITERIA.items() if made.needs_data or made.needs_gradient or made.training != "no"]


def held(thing: object, seen: set[int]) -> int:
    """Bytes of the tensors and arrays that `thing` leads to; networks and functions are not followed."""
    if id(thing) in seen or isinstance(thing, (nn.Module, type)) or callable(thing):
        return 0
    seen.add(id(thing))
    if isinstance(thing, torch.Tensor):
        return 0 if isinstance(thing, nn.Parameter) else thing.numel() * thing.element_size()
    if isinstance(thing, np.ndarray) and thing.dtype != object:
        return thing.nbytes
    if isinstance(thing, dict):
        return sum(held(v, seen) for v in thing.values())
    if isinstance(thing, (list, tuple, set)):
        return sum(held(v, seen) for v in thing)
    return held(vars(thing), seen) if hasattr(thing, "__dict__") else 0


@pytest.mark.parametrize("name", WATCHING)
def test_statistics_do_not_grow_with_the_batches(name: str):
    torch.manual_seed(0)
    net = models.build("streetnet", {"width": 8, "blocks": 1}, None, CLASSES)
    image, labels = torch.randn(2, 3, 64, 64), torch.randint(0, CLASSES, (2, 64, 64))
    criterion = CRITERIA[name]()
    criterion.attach(net, find_groups(net, image[:1]).groups)
    taught = criterion.training == "must"
    net.train(taught)
    sizes = []
    for step in range(9):
        if taught and hasattr(criterion, "before_step"):
            criterion.before_step(step, 12, 3.0)
        output = net(image)
        loss = nn.functional.cross_entropy(models.logits_of(output), labels)
        if taught and hasattr(criterion, "term"):
            loss = loss + criterion.term(loss, output, labels)
        if criterion.needs_gradient or taught:
            loss.backward()
            if hasattr(criterion, "after_backward"):
                criterion.after_backward()
        del output, loss
        sizes.append(held(criterion, set()))
    criterion.detach()
    assert sizes[-1] == sizes[4], sizes  # an epoch has passed
    weights = sum(p.numel() for p in net.parameters()) * 4
    assert sizes[-1] < 60 * weights, "statistics, not maps"
