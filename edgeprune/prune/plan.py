"""The plan: which units of each group stay. It is what surgery does, readable and replayable on a fresh network."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import nn

from edgeprune.documents import first_fault
from edgeprune.errors import SurgeryError
from edgeprune.files import read_json, write_json
from edgeprune.models.state import tensors_of
from edgeprune.prune.blocks import may_vanish
from edgeprune.prune.channels import ChannelGraph

SCHEMA = 1


def _ascending(kept: list[int]) -> list[int]:
    if any(b <= a for a, b in pairwise(kept)):
        raise ValueError("must be in ascending order, each once")
    return kept


Kept = Annotated[list[Annotated[int, Field(ge=0)]], AfterValidator(_ascending)]


@dataclass(frozen=True)
class Plan:
    """group -> sorted kept units; `sizes` are the dense ones, `source` the dense network's structure hash.

    `tensors` says, for each tensor axis that is cut, the positions that stay: enough to replay without the graph.
    """

    keep: dict[str, list[int]]
    sizes: dict[str, int]
    tensors: dict[str, dict[int, list[int]]]
    source: str

    @property
    def widths(self) -> dict[str, int]:
        return {name: len(kept) for name, kept in self.keep.items()}


def structure_hash(net: nn.Module) -> str:
    """Hash of every tensor's name and shape: a plan fits only the structure that it was made for."""
    text = "\n".join(f"{k} {tuple(v.shape)}" for k, v in tensors_of(net).items())
    return hashlib.sha256(text.encode()).hexdigest()


def make_plan(net: nn.Module, graph: ChannelGraph, keep: dict[str, np.ndarray]) -> Plan:
    """Translate kept units (group -> indices) into kept positions of every tensor.

    Raises:
        SurgeryError: an unknown group, an index out of range, or a group left empty that is no part of a block.
    """
    alive = []
    gone = {name for name, kept in keep.items() if len(kept) == 0}
    if gone and not may_vanish(graph, gone & {g.name for g in graph.groups}):
        name = sorted(gone)[0]
        raise SurgeryError(
            f"plan: group {name} would vanish and the network would not be connected; keep a channel of it"
        )
    for g in graph.groups:
        kept = np.unique(np.asarray(keep.get(g.name, np.arange(g.size)), dtype=np.int64))
        if len(kept) and (kept[0] < 0 or kept[-1] >= g.size):
            raise SurgeryError(f"plan: group {g.name} has channels 0 to {g.size - 1}, the plan names {kept[-1]}")
        mask = np.zeros(g.size, dtype=bool)
        mask[kept] = True
        alive.append(mask)
    unknown = set(keep) - {g.name for g in graph.groups}
    if unknown:
        raise SurgeryError(f"plan: no group is called {sorted(unknown)[0]}")
    tensors: dict[str, dict[int, list[int]]] = {}
    for tensor, axes in graph.places.items():
        for axis, (unit, group) in axes.items():
            stays = np.array([g < 0 or alive[g][u] for u, g in zip(unit, group, strict=True)])
            if not stays.all():
                tensors.setdefault(tensor, {})[axis] = np.flatnonzero(stays).tolist()
    kept_units = {g.name: np.flatnonzero(m).tolist() for g, m in zip(graph.groups, alive, strict=True)}
    return Plan(kept_units, graph.widths(), tensors, structure_hash(net))


def compose(net: nn.Module, graph: ChannelGraph, first: Plan, second: Plan) -> Plan:
    """The plan that cuts `net` in one go as `first` and then, on what that left, `second` do.

    Raises:
        SurgeryError: their units do not fit together.
    """
    state, tensors = tensors_of(net), dict(first.tensors)
    for name, axes in second.tensors.items():
        if name not in state:  # a bias that folding has added
            continue
        old = first.tensors.get(name, {})
        now = {a: np.asarray(old.get(a, range(state[name].shape[a])))[kept].tolist() for a, kept in axes.items()}
        tensors[name] = {**old, **now}
    keep = {}
    for number, g in enumerate(graph.groups):
        alive = np.ones(g.size, dtype=bool)
        for name, axes in graph.places.items():
            for axis, (unit, group) in axes.items():
                kept = tensors.get(name, {}).get(axis)
                if kept is not None:
                    gone = np.setdiff1d(np.arange(len(unit)), kept)
                    alive[unit[gone][group[gone] == number]] = False
        keep[g.name] = np.flatnonzero(alive)
    plan = make_plan(net, graph, keep)
    if plan.tensors != tensors:
        raise SurgeryError("plan: two cuts one after the other do not make one plan of the dense network's groups")
    return plan


def save_plan(path: Path, plan: Plan, network: dict[str, Any]) -> None:
    """Write `plan.json`; `network` is what `models.build` needs to make the dense network again."""
    write_json(
        path,
        {
            "schema": SCHEMA,
            "network": network,
            "source": plan.source,
            "groups": {n: {"channels": plan.sizes[n], "keep": k} for n, k in plan.keep.items()},
            "tensors": {t: {str(a): k for a, k in axes.items()} for t, axes in plan.tensors.items()},
        },
    )


class _Group(BaseModel):
    model_config = ConfigDict(strict=True)

    channels: Annotated[int, Field(ge=1)]
    keep: Kept

    @model_validator(mode="after")
    def among_its_channels(self) -> _Group:
        if self.keep and self.keep[-1] >= self.channels:
            raise ValueError(f"keep names channel {self.keep[-1]} of {self.channels}")
        return self


class _Network(BaseModel):
    """`models.build`'s arguments."""

    model_config = ConfigDict(strict=True, extra="allow")

    network: str | None = None
    factory: str | None = None
    args: dict[str, Any] = {}
    classes: Annotated[int, Field(ge=1, le=65_536)] = 1
    output: Annotated[tuple[str, str], Field(strict=False)] | None = None  # in evaluation, in training; JSON has lists


class _Document(BaseModel):
    model_config = ConfigDict(strict=True)

    version: Annotated[Literal[1], Field(alias="schema")]
    network: _Network
    source: str
    groups: dict[str, _Group]
    tensors: dict[str, dict[Annotated[str, Field(pattern=r"^[0-9]$")], Kept]]


def read_plan(path: Path) -> tuple[Plan, dict[str, Any]]:
    """The plan and the network's description: what of `models.build`'s arguments was written.

    Raises:
        SurgeryError: it is not a plan; says what of it is not.
    """
    doc = read_json(path)
    try:
        told = _Document.model_validate(doc)
    except ValidationError as error:
        raise SurgeryError(f"{path}: not a plan of schema {SCHEMA} ({first_fault(error)}); make it again") from error
    groups = told.groups
    plan = Plan(
        {n: g.keep for n, g in groups.items()},
        {n: g.channels for n, g in groups.items()},
        {t: {int(a): k for a, k in axes.items()} for t, axes in told.tensors.items()},
        told.source,
    )
    return plan, told.network.model_dump(exclude_unset=True)
