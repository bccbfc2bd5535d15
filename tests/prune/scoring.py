"""A few batches past a criterion, the way that the prune stage gathers its scores."""

import numpy as np
import torch
from torch import nn


def loss_of(output) -> torch.Tensor:
    logits = output["out"] if isinstance(output, dict) else output
    return logits.square().mean()


def scored(criterion, net: nn.Module, graph, steps: int = 3) -> dict[str, np.ndarray]:
    """The criterion's scores after a few batches, the way that the prune stage gathers them."""
    taught = criterion.training == "must"
    criterion.attach(net, graph.groups)
    net.train(taught)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.01)
    for step in range(steps):
        torch.manual_seed(step)
        if taught:
            getattr(criterion, "before_step", lambda *a: None)(step, steps, 1.0)
        output = net(torch.randn(2, 3, 32, 32))
        value = loss_of(output)
        logits = output["out"] if isinstance(output, dict) else output
        if hasattr(criterion, "term") and logits.ndim == 4:
            value = value + criterion.term(value, output, torch.randint(0, 5, (2, 32, 32)))
        optimizer.zero_grad()
        value.backward()
        if hasattr(criterion, "after_backward"):
            criterion.after_backward()
        if taught:
            optimizer.step()
    criterion.detach()
    return criterion.scores()
