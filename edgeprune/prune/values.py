"""The channels of a traced tensor, and how handlers read a node's arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from edgeprune.prune.groups import Trace


@dataclass(frozen=True)
class Value:
    """The channels of a tensor: ids for the axes `axis … axis + ids.ndim - 1`."""

    ids: np.ndarray
    axis: int = 1


Call = Any  # a torch.fx.Node; the union type of its arguments is nothing that a checker can follow
Handler = Callable[["Trace", Call], Value | tuple[Value | None, ...] | None]


def shape_of(node: Call) -> tuple[int, ...]:
    return tuple(int(s) for s in node.meta["val"].shape)


def argument(node: Call, position: int, name: str, default: Any = None) -> Any:
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, default)
