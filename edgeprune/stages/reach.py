"""What a budget can come to, asked before anything is trained: the whole network's cost, and that of the narrowest one.

MACs, parameters and channels are counted on the channel graph. Milliseconds are measured where the device is at hand: times do
not hang on weights, so the untrained dense engine is timed, and of the table only what it and the narrowest network need is
measured, which the profile stage finds there. A run is refused on what was measured only: where a budget lies below what is
predicted of the narrowest network, that network's engine is built and timed first. An estimate refuses nothing, and neither does a
race that other programs disturbed: where a refusal hangs on it, it is taken again twice, and then the run goes on.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgeprune.deploy.heads import COARSE, MOST_CLASSES
from edgeprune.errors import BudgetError, ExportError, SurgeryError
from edgeprune.measure.belief import PACE, Known, disturbed
from edgeprune.measure.race import Race, race
from edgeprune.profile import context
from edgeprune.profile.macs import count_macs
from edgeprune.profile.predict import Predictor
from edgeprune.profile.probes import Key
from edgeprune.profile.profiler import Profiler
from edgeprune.profile.staircase import Times
from edgeprune.prune import cost
from edgeprune.prune.allocate import floors
from edgeprune.prune.blocks import find_blocks, may_vanish
from edgeprune.prune.channels import ChannelGraph
from edgeprune.prune.cost import Widths, total
from edgeprune.prune.cutter import Cutter
from edgeprune.prune.groups import find_groups
from edgeprune.recipe.units import amount, asked
from edgeprune.runtime import UNTIMED, Engine
from edgeprune.runtime.signature import Signature
from edgeprune.stages import latency, load
from edgeprune.stages.asked import budget_limit
from edgeprune.stages.deploy import device, precision
from edgeprune.stages.profile import ITSELF, engine_of, load_of, patience_of, profiler_of, rooflines
from edgeprune.stages.run import Run

_SURE = 0.25  # of what a busy machine takes, a quiet one takes at least
_DOUBT = 0.2  # by how much a prediction of what was not built may be too high
_CUT = 0.25  # of the pairs: more that other programs cut into tell of their work, too
_SITTINGS = 3  # before a budget is refused, or taken for one of which nothing is known
_PAIRS, _MOST, _SECONDS, _WIDTH = 10, 40, 5.0, 0.05  # of a race that tells what can be reached, and not what is


@dataclass(frozen=True)
class Reach:
    """Costs in the budget's unit (frames a second as milliseconds an image).

    Attributes:
        least: of the narrowest network by `prune.min_keep` and the step; for milliseconds predicted, or estimated.
        bare: the same without any block that may vanish; None where none may.
        fixed: milliseconds that do not hang on widths.
        measured: the dense engine was timed on the device.
        narrowest: milliseconds of the narrowest network's built engine, the lower end of their interval; None where it was not built.
        sure: the share of measured milliseconds that a busy device may take when it is quiet.
        doubt: why the measurements refuse nothing; None where nothing speaks against them.
    """

    kind: str
    dense: float
    least: float
    bare: float | None = None
    fixed: float = 0.0
    measured: bool = True
    narrowest: float | None = None
    sure: float = 1.0
    doubt: str | None = None


def check(run: Run) -> None:
    """Say what the recipe's budget is to this network, and refuse one that cannot be reached.

    Raises:
        BudgetError: it cannot; with what can.
    """
    with torch.random.fork_rng(devices=[]):  # trainings are the same with and without all this
        net = load.build(run).eval()
        graph = find_groups(net, load.example(run), run.recipe.prune.never)
        found = of_budget(run, net, graph, run.recipe.budget.kind)
        run.console.print(told(run, found), highlight=False, markup=False, soft_wrap=True)
        refuse(run, found)


def of_budget(run: Run, net: nn.Module, graph: ChannelGraph, kind: str) -> Reach:
    """The reach of a kind of budget for the untrained network; for milliseconds this builds and times engines."""
    if kind not in cost.COSTS:
        return _milliseconds(run, net, graph, kind)
    macs = count_macs(net, run.recipe.data.size) if kind == "macs" else 0
    terms, whole = cost.counted(kind, graph, graph, macs)
    least, bare = narrowest(run, graph, run.recipe.prune.step or run.target.channel_step, kind)
    price = total(terms)
    return Reach(kind, whole, price(least), None if bare is None else price(bare))


def narrowest(run: Run, graph: ChannelGraph, step: int, kind: str) -> tuple[Widths, Widths | None]:
    """The least widths that the recipe allows, and those without any block that may vanish (None where none may).

    Each of `prune.rounds` may keep `prune.min_keep` of what the one before has left.
    """
    p, widths = run.recipe.prune, graph.widths()
    for _ in range(len(p.rounds) + 1):
        widths = floors({n: np.empty(w) for n, w in widths.items()}, p.min_keep, graph.steps(step))
    knapsack = p.allocate == "knapsack" or (p.allocate == "auto" and kind not in cost.COSTS)
    blocks = find_blocks(graph) if knapsack and p.remove_blocks != "never" else {}
    gone = {g for block in blocks.values() for g in block}
    return widths, {n: 0 if n in gone else w for n, w in widths.items()} if gone else None


def told(run: Run, found: Reach) -> str:
    """A budget and what can be reached, in one line."""
    budget, kind = run.recipe.budget, found.kind
    limit = budget_limit(budget, found.dense)
    share = found.least / found.dense
    if budget.is_latency:
        how = "estimated" if not found.measured else "predicted"
        line = f"untrained dense engine {amount(kind, found.dense)}, " if found.measured else ""
        line += f"narrowest network {how} at {amount(kind, found.least)} ({share:.2f}x)"
    else:
        line = f"dense network {amount(kind, found.dense)}, narrowest {amount(kind, found.least)} ({share:.2f}x)"
    if found.narrowest is not None:
        line += f", measured {amount(kind, found.narrowest)}"
    if found.bare is not None and limit < found.least:
        line += f", without its blocks {amount(kind, found.bare)}"
    said = (
        "the dense network is within it, so nothing would be pruned" if limit >= found.dense else _verdict(found, limit)
    )
    return f"budget.{kind} {asked(budget, found.dense)}: {line}; {said}"


def _verdict(found: Reach, limit: float) -> str:
    if not found.measured:
        return "an estimate: whether the budget can be met only the device tells"
    if _below(found, limit):
        return f"whether it can be reached is not known: {found.doubt}" if found.doubt else "out of reach"
    if found.bare is None or limit >= found.least:
        return "within reach" if limit >= (found.narrowest or found.least) else "at the edge of what can be reached"
    floor = found.narrowest or found.bare
    return "within reach only where whole blocks go" if limit >= floor else "at the edge of what can be reached"


def _beyond(found: Reach, limit: float) -> bool:
    """Is a limit certainly less than can be reached?"""
    return found.doubt is None and _below(found, limit)


def _below(found: Reach, limit: float) -> bool:
    """Is a limit less than can be reached, if the measurements are to be believed?"""
    if not found.measured:
        return False
    floor = found.least if found.bare is None else found.bare
    if found.kind in cost.COSTS:
        return limit < floor
    return limit <= found.sure * found.fixed or limit < found.sure * (found.narrowest or (1 - _DOUBT) * floor)


def refuse(run: Run, found: Reach) -> None:
    """Refuse a budget that lies beyond.

    Raises:
        BudgetError: it does.
    """
    budget, kind = run.recipe.budget, found.kind
    if not _beyond(found, budget_limit(budget, found.dense)):
        return
    if budget.is_latency:
        latency.reachable(run, found.fixed, found.dense)
    p = run.recipe.prune
    blocks = " without all blocks that may vanish" if found.bare is not None else ""
    least = found.narrowest or (found.least if found.bare is None else found.bare)
    whose = "engine" if budget.is_latency else "network"
    raise BudgetError(
        f"budget.{kind}: {asked(budget, found.dense)} cannot be reached; the smallest that prune.min_keep {p.min_keep:g} "
        f"allows{blocks} is {amount(kind, least)} ({least / found.dense:.2f}x of the dense {whose}); ask for more, or lower "
        "prune.min_keep"
    )


def _milliseconds(run: Run, net: nn.Module, graph: ChannelGraph, kind: str) -> Reach:
    if device(run).why_not() is not None or run.target.backend in UNTIMED:
        return _estimated(run, graph, kind)
    for number in range(1, _SITTINGS + 1):
        with tempfile.TemporaryDirectory(prefix="edgeprune-reach-") as folder:
            found = _timed(run, net, graph, kind, Path(folder))
        refused = run.recipe.budget.kind == kind and _below(found, budget_limit(run.recipe.budget, found.dense))
        if found.doubt is None or not refused or number == _SITTINGS or not patience_of(run).wait(found.doubt):
            return found
    raise AssertionError("the last sitting returns")


def _estimated(run: Run, graph: ChannelGraph, kind: str) -> Reach:
    predictor = Predictor(graph.operations, graph.moves, graph.widths(), rooflines(run, graph))
    least, bare = narrowest(run, graph, run.recipe.prune.step or run.target.channel_step, kind)
    return Reach(
        kind, predictor(graph.widths()), predictor(least), None if bare is None else predictor(bare), measured=False
    )


def _timed(run: Run, net: nn.Module, graph: ChannelGraph, kind: str, home: Path) -> Reach:
    head, dense = _dense(run, net, home)
    made = home / "engine-dense" / "engine.xml"
    source = made if made.exists() else home / "dense.onnx"
    inside = context.read(home / "dense.onnx", device(run).layers(source, precision(run)))
    alone = _race(run, dense, dense)
    ms = float(np.median(alone.slow))
    profiler = profiler_of(run)
    step = run.recipe.prune.step or profiler.step()
    least, bare = narrowest(run, graph, step, kind)
    predictor = Predictor(graph.operations, graph.moves, graph.widths(), _surfaces(profiler, graph))
    profiler.ensure({key for w in (graph.widths(), least) for _, key in predictor.keys(w)}, "narrowest network")
    predictor.anchor(inside, ms)
    found = Reach(
        kind, ms, predictor(least), None if bare is None else predictor(bare), predictor.fixed,
        doubt=disturbed(alone, Known(rough=1.0, wild=ITSELF, cut=_CUT)),
    )  # fmt: skip
    if kind != "latency" and load_of(run):  # a share of the dense engine's time hardly hangs on that
        found = replace(found, sure=_SURE)
    limit = latency.limit_of(run, ms) if run.recipe.budget.is_latency else ms
    floor = found.least if found.bare is None else found.bare
    if found.fixed < limit < min(found.least, (1 + _DOUBT) * floor):
        small = _narrowest_net(run, net, graph, bare or least)
        if small is not None:
            taken = _race(run, dense, engine_of(run, small, home, "narrowest", head))
            _, low, _ = latency.milliseconds(run, taken, ms)
            why = disturbed(taken, Known(slow=ms, pace=PACE, cut=_CUT))
            return replace(found, narrowest=low, doubt=found.doubt or why)
    return found


def _narrowest_net(run: Run, net: nn.Module, graph: ChannelGraph, widths: Widths) -> nn.Module | None:
    """Cut to these widths; None where its blocks cannot all go at once."""
    gone = [n for n, w in widths.items() if not w]
    if gone and not may_vanish(graph, gone):
        return None
    cutter = Cutter(net, graph, {g.name: np.arange(g.size, dtype=float) for g in graph.groups})
    try:
        return cutter.small(cutter.plan(widths), load.example(run))
    except SurgeryError:
        return None


def _dense(run: Run, net: nn.Module, home: Path) -> tuple[str, Engine]:
    """The engine by the cheapest head there may be, since which one ships hangs on masks that nobody has learnt yet."""
    asked, classes = run.recipe.deploy.head, len(load.dataset(run, "train").classes)
    known = load.task(run).heads
    cheap = [n for n in (COARSE, "chain") if n in known and (n != "chain" or classes <= MOST_CLASSES)]
    if run.target.backend == "inductor" or run.recipe.deploy.route != "onnx":
        cheap = [n for n in cheap if n != COARSE]  # it is made in the ONNX graph
    for head in (asked,) if asked != "auto" and asked in known else (*cheap, known[0]):
        try:
            return head, engine_of(run, net, home, "dense", head)
        except ExportError:
            if head != COARSE:  # nothing is resized before the argmax
                raise
    raise AssertionError("a task has a head")


def _race(run: Run, slow: Engine, fast: Engine) -> Race:
    image = load.dataset(run, "val")[0][0][None]
    return race(
        lambda n: device(run).pairs(slow, fast, image, n), pairs=_PAIRS, most=_MOST, seconds=_SECONDS, width=_WIDTH
    )


def _surfaces(profiler: Profiler, graph: ChannelGraph) -> dict[Signature, Times]:
    """The table as it is, without a grid: what is asked of it is measured."""
    signatures: Iterable[Signature] = {op.signature for op in graph.operations if op.signature is not None}
    return {s: _Asked(profiler, s) for s in signatures}


class _Asked:
    """One signature's times, each measured when it is asked for first."""

    def __init__(self, profiler: Profiler, signature: Signature) -> None:
        self._profiler, self._signature = profiler, signature
        self._known: dict[tuple[int, int], float] = {}

    def at(self, inputs: int, outputs: int) -> float:
        """Milliseconds."""
        if (inputs, outputs) not in self._known:
            key = Key(self._signature, inputs, outputs)
            self._known[inputs, outputs] = self._profiler.ensure([key])[key]
        return self._known[inputs, outputs]
