"""Attributes by which a network hides what PyTorch itself calls on every module."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from edgeprune.errors import ModelError
from edgeprune.models.modes import modes_kept

# of `nn.Module`, what PyTorch, its exporter or this package calls on a network
_METHODS = (
    "apply", "buffers", "children", "cpu", "eval", "get_buffer", "get_parameter", "get_submodule", "load_state_dict", "modules",
    "named_buffers", "named_children", "named_modules", "named_parameters", "parameters", "register_forward_hook",
    "register_forward_pre_hook", "requires_grad_", "state_dict", "to", "train", "zero_grad",
)  # fmt: skip


def check_attributes(net: nn.Module) -> None:
    """No attribute stands where PyTorch looks for a method or for the mode, and `train()` gives the network back.

    Raises:
        ModelError: one does, such as `self.modules = [...]`; or `train()` does not.
    """
    for name, module in _all(net, ""):
        hidden = [method for method in _METHODS if not callable(getattr(module, method))]
        hidden += [] if isinstance(module.training, bool) else ["training"]
        if hidden:
            where = f"{type(module).__name__}.{hidden[0]}" if not name else f"{name}.{hidden[0]}"
            raise ModelError(
                f"model: the attribute {where} (a {type(getattr(module, hidden[0])).__name__}) hides nn.Module.{hidden[0]}, which "
                f"PyTorch itself uses; rename it where {type(module).__name__} sets self.{hidden[0]}"
            )
    with modes_kept(net):
        given = net.train(net.training)
    if given is not net:
        raise ModelError(
            f"model: {type(net).__name__}.train() gives {type(given).__name__}, not the network; end it with `return self`, as nn.Module's "
            "does"
        )


def _all(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """As `named_modules`, which may itself be hidden."""
    yield name, module
    for child_name, child in module._modules.items():
        if child is not None:
            yield from _all(child, f"{name}.{child_name}" if name else child_name)
