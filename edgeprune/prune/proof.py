"""The surgery proof: before anything is trained, the masked full network and the shrunk one must agree.

Two runs on noise, with randomised norms (a fresh network's betas are zero and would hide faults):
1. removed channels silenced, that is, read by nothing: exact everywhere, whatever they emit;
2. constants folded, with zero padding replaced by edge padding in both: exact everywhere too, since a constant map
   stays constant. (With zero padding the folded network differs at padded borders; see `surgery`.)

Where they differ, double precision decides: what a sum in another order changes in its last digit may make another of two
nearly equal values the largest, and unpooling then puts it elsewhere; and a forward may round by itself (autocast).

And the shrunk network must run as it does in training: what it computes there alone was not followed.

Where the proof fails, groups are cut fewer at a time until it is known which of them make it fail.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from edgeprune.errors import SurgeryError, few, first_line
from edgeprune.models.difference import farthest
from edgeprune.models.outputs import floats
from edgeprune.progress import doing
from edgeprune.prune.blocks import Blocks, find_blocks
from edgeprune.prune.channels import ChannelGraph
from edgeprune.prune.exact import Doubled
from edgeprune.prune.exact import EdgePads as _EdgePads
from edgeprune.prune.plan import Plan, make_plan
from edgeprune.prune.readings import UNLIKE, Example
from edgeprune.prune.surgery import fold_constants, shrink, unread

TOLERANCE = 1e-4  # of the largest output, f32
SILENCED, FOLDED = "channels silenced", "constants folded"
_edge_padded = copy.deepcopy  # `EdgePads` does what it did
NAMED = 3  # groups that are at fault, at most


@dataclass(frozen=True)
class Proof:
    """Largest relative differences of the two runs."""

    silenced: float
    folded: float


@doing("proving the cut")
def prove(
    net: nn.Module, graph: ChannelGraph, plan: Plan, example: Example, seed: int = 0, tolerance: float = TOLERANCE
) -> Proof:
    """Check the plan's surgery on `net` (left untouched).

    Raises:
        SurgeryError: the shrunk network fails to run, or its outputs differ from the masked network's; which groups make it so.
    """
    try:
        return _proof(net, graph, plan, example, seed, tolerance)
    except SurgeryError as error:
        cut = [n for n, kept in plan.keep.items() if 0 < len(kept) < plan.sizes[n]]

        def fails(names: Sequence[str]) -> bool:
            some = make_plan(net, graph, {n: np.array(plan.keep[n]) for n in names})
            try:
                _proof(net, graph, some, example, seed, tolerance)
            except SurgeryError:
                return True
            return False

        found = at_fault(cut, fails)
        raise SurgeryError(f"{error}; {_advice(graph, found)}") from error


@doing("proving which blocks can go")
def removable(net: nn.Module, graph: ChannelGraph, example: Example) -> Blocks:
    """The blocks without which the network still runs and passes the proof.

    The channel graph does not show what operators between a block's layers make of no channels (a split, a shuffle).
    """
    found = {}
    for name, block in find_blocks(graph).items():
        plan = make_plan(net, graph, {g: np.array([], dtype=np.int64) for g in block})
        with suppress(Exception):  # whatever an operator raises
            _proof(net, graph, plan, example, 0, TOLERANCE)
            found[name] = block
    return found


@doing("rehearsing the cut")
def rehearse(net: nn.Module, graph: ChannelGraph, example: Example) -> None:
    """Prove the surgery before anything is known of the channels: every group is cut to half.

    Raises:
        SurgeryError: as in `prove`.
    """
    prove(net, graph, make_plan(net, graph, {g.name: np.arange(g.size // 2, g.size) for g in graph.groups}), example)


def at_fault(names: Sequence[str], fails: Callable[[Sequence[str]], bool], most: int = NAMED) -> list[str]:
    """Those of the names that fail alone, `most` of them at most, found by halves; none where they fail only together."""
    if most < 1 or not names or not fails(names):
        return []
    if len(names) == 1:
        return list(names)
    middle = len(names) // 2
    first = at_fault(names[:middle], fails, most)
    return first + at_fault(names[middle:], fails, most - len(first))


def _advice(graph: ChannelGraph, found: Sequence[str]) -> str:
    if not found:
        return "no group of channels alone makes it so: name the modules in question in prune.never"
    layers = [p for g in graph.groups if g.name in found for p in dict.fromkeys(g.producers)]
    return f"cutting {few(layers[:1] if len(found) == 1 else found)} makes it so: try prune.never: [{few(layers)}]"


class _Differs(SurgeryError):
    """The networks run, and do not answer the same."""


def _proof(net: nn.Module, graph: ChannelGraph, plan: Plan, example: Example, seed: int, tolerance: float) -> Proof:
    noisy = _randomised(net, seed)
    shrunk = shrink(noisy, plan)
    try:
        proof = _runs(noisy, shrunk, graph, plan, example, seed, tolerance)
    except _Differs:
        if (in_double := _doubled(noisy, graph, plan, example, seed, tolerance)) is None:
            raise
        proof = in_double
    _trainable(shrunk, example)
    return proof


def _runs(
    noisy: nn.Module, shrunk: nn.Module, graph: ChannelGraph, plan: Plan, example: Example, seed: int, tolerance: float
) -> Proof:
    silenced = _compare(unread(noisy, graph, plan), shrunk, example, seed, tolerance, SILENCED)
    small, full = fold_constants(noisy, graph, plan, example)
    with _EdgePads():
        folded = _compare(full, small, example, seed, tolerance, FOLDED)
    return Proof(silenced, folded)


def _doubled(
    noisy: nn.Module, graph: ChannelGraph, plan: Plan, example: Example, seed: int, tolerance: float
) -> Proof | None:
    """The proof in double precision; None where it fails, too, or the network does not run so."""
    inputs = example.double() if isinstance(example, torch.Tensor) else tuple(x.double() for x in example)
    with suppress(Exception), Doubled():
        wide = copy.deepcopy(noisy).double()
        return _runs(wide, shrink(wide, plan), graph, plan, inputs, seed, tolerance)
    return None


def _trainable(small: nn.Module, example: Example) -> None:
    """Does it run in training mode, in which it is left?"""
    inputs = (example,) if isinstance(example, torch.Tensor) else example
    try:
        small.train()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            small(*(torch.cat([x, x]) for x in inputs))
    except Exception as error:
        raise SurgeryError(
            f"surgery proof (training): the pruned network does not run in training mode ({first_line(error)[:200]}); what it computes there "
            "alone, such as an auxiliary head, cannot be followed: return it in evaluation mode too, or spare what feeds it"
        ) from error


def _randomised(net: nn.Module, seed: int) -> nn.Module:
    copy_ = copy.deepcopy(net).eval()
    generator = torch.Generator().manual_seed(seed)
    for module in copy_.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            for name, low, high in (
                ("weight", 0.5, 1.5),
                ("bias", -0.5, 0.5),
                ("running_mean", -0.3, 0.3),
                ("running_var", 0.5, 1.5),
            ):
                tensor = getattr(module, name)
                if tensor is not None:
                    drawn = torch.rand(tensor.shape, generator=generator) * (high - low) + low
                    tensor.data.copy_(drawn)
    return copy_


def _compare(full: nn.Module, small: nn.Module, example: object, seed: int, tolerance: float, what: str) -> float:
    inputs = (example,) if isinstance(example, torch.Tensor) else tuple(example)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed + 1)
    noise = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in inputs]
    worst = 0.0
    for contrast, brightness in UNLIKE:  # a constant that hangs on the image is none
        images = [contrast * x + brightness for x in noise]
        worst = max(worst, _difference(full.eval(), small.eval(), images, what))
    if worst > tolerance:
        raise _Differs(
            f"surgery proof ({what}): masked and pruned network differ by {worst:.1e} of the largest output "
            f"(allowed {tolerance:.0e}); this network is refused"
        )
    return worst


def _difference(full: nn.Module, small: nn.Module, images: Sequence[torch.Tensor], what: str) -> float:
    """The largest, of any output, relative to its largest value."""
    with torch.no_grad():
        expected = floats(full(*images))
        try:
            found = floats(small(*images))
        except Exception as error:
            raise SurgeryError(
                f"surgery proof ({what}): the pruned network does not run ({first_line(error)[:200]}); a width is probably written "
                "in its forward"
            ) from error
    if not expected or len(found) != len(expected):
        raise SurgeryError(
            f"surgery proof ({what}): of {len(expected)} floating-point outputs the pruned network gives {len(found)}; they cannot be "
            "compared"
        )
    for i, (a, b) in enumerate(zip(expected, found, strict=True)):
        if a.shape != b.shape:
            raise SurgeryError(f"surgery proof ({what}): output {i} has shape {tuple(b.shape)}, not {tuple(a.shape)}")
        if a.isnan().any():
            why = "a removed channel may be divided by 0" if what == FOLDED else "the weights may hold NaN"
            raise SurgeryError(f"surgery proof ({what}): output {i} holds NaN before anything is taken out; {why}")
    return farthest(found, expected)
