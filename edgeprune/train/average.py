"""Averaged weights: what training moves by small steps is averaged, all other state is the network's own."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from edgeprune.models.state import load_unsaved, load_weights, tensors_of, unsaved_of


class Average:
    """The exponential average of a network's weights and of its float buffers' running statistics; `module` has them.

    Whole numbers and booleans are taken as they are: an order of channels or a counter has no mean. So is what nobody trains: frozen weights,
    and every value that is the same in the network and the average (whose mean would be rounded, or, of infinities, not a number).

    Args:
        decay: the share of the average that a step keeps, once there were some steps.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.module, self.decay, self.count = copy.deepcopy(net), decay, 0

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Take a step's weights in."""
        # or a short training would end with the weights of its first step, which the average begins with
        keep = min(self.decay, (1 + self.count) / (10 + self.count)) if self.count else 0.0
        for held, new in zip(self.module.parameters(), net.parameters(), strict=True):
            if keep and new.requires_grad:
                held.lerp_(new, 1 - keep)
            else:
                held.copy_(new)
        for held, new in zip(self.module.buffers(), net.buffers(), strict=True):
            if keep and (new.is_floating_point() or new.is_complex()):
                held.copy_(torch.where(held == new, new, held.lerp(new, 1 - keep)))
            else:
                held.copy_(new)
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return {"count": self.count, "module": tensors_of(self.module), "unsaved": unsaved_of(self.module)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What `state_dict` gave."""
        self.count = int(state["count"])
        load_weights(self.module, state["module"])
        load_unsaved(self.module, state.get("unsaved", {}))
