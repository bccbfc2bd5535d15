"""What a short training brings back: of each layer's loss, and of whole ways to share the budget out."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from torch import nn

from edgeprune.progress import Progress
from edgeprune.prune import worth
from edgeprune.prune.blocks import Blocks
from edgeprune.prune.cost import Widths
from edgeprune.prune.cutter import Cutter
from edgeprune.stages import load, notes
from edgeprune.stages.run import Run
from edgeprune.train.imitate import imitate
from edgeprune.train.loop import total_steps

AT = 0.5  # the share that each group is cut to
MOST, LEAST = 30, 8  # optimiser steps a group; fewer than the least say nothing
GENTLE = 0.5  # of the fine-tuning's rate: training's own noise hides small losses
CONTEST = 150  # optimiser steps a contestant


def steps_each(run: Run, groups: int) -> int:
    """Optimiser steps a group: the recipe's; none where nothing asks for them (`judged`), else `short`."""
    asked = run.recipe.prune.recovery_steps
    if asked is not None:
        return asked
    return short(run, groups) if judged(run) else 0


def short(run: Run, groups: int) -> int:
    """As many steps a group, or a network without a block, that all groups train half as long as the fine-tuning at most."""
    steps = min(MOST, finetuning(run) // (2 * (groups + 1)))
    return steps if steps >= LEAST else 0


def contest_steps(run: Run, contestants: int) -> int:
    """Optimiser steps a contestant: the recipe's, or as many that all of them train no longer than the fine-tuning; none where
    nothing asks for them (`judged`)."""
    asked = run.recipe.prune.contest_steps
    if asked is not None:
        return asked
    steps = min(CONTEST, finetuning(run) // contestants) if judged(run) else 0
    return steps if steps >= LEAST else 0


def judged(run: Run) -> bool:
    """Are widths judged by training where the recipe gives no number of steps?

    Compensation heals at once most of what a short training heals, and losses are measured behind it: judged networks were no
    better in the end (docs/results.md). Without it, losses before training say little.
    """
    return not run.recipe.prune.compensate or bool(run.recipe.prune.contest_steps)


def finetuning(run: Run) -> int:
    """Optimiser steps of the fine-tuning."""
    cfg = run.recipe.calibration
    if run.recipe.finetune is None or (cfg.steps is None and cfg.epochs is None):
        return 0  # none, or elsewhere
    return total_steps(cfg, load.batches(run, cfg, 0).per_epoch / cfg.accumulate)


def healed(run: Run, cutter: Cutter, yard: worth.Yardstick, found: worth.Losses, steps: int) -> worth.Losses:
    """`found` with the share of each group's loss that stays (`Losses.stays`).

    Every group is cut alone to half of its width and trained for `steps` on the same batches; the network that nothing
    was cut from is trained, too, and its drift taken off. Where a loss is small beside that drift, its share is drawn to
    that of all groups together. Layers whose loss heals (often late ones, before the head) become
    cheap, those whose loss stays (early ones) dear. The idea of judging after a short fine-tuning is NetAdapt's (Yang et al.,
    ECCV 2018); one factor a group is ours. A killed measurement goes on with the next group (`prune/recovery.json`).

    Args:
        cutter: of the dense network, where the yardstick measures.
    """
    whole = cutter.graph.widths()
    cuts = {n: max(1, round(AT * s)) for n, s in whole.items()}
    loss = _trained(run, cutter, yard, steps, {"": whole, **{n: {**whole, n: k} for n, k in cuts.items()}})
    drift, narrower = loss[""], {n: k for n, k in cuts.items() if k < whole[n]}
    before = {n: found.curves[n][k] for n, k in narrower.items()}
    after = {n: max(0.0, loss[n] - drift) for n in narrower}
    common = sum(after.values()) / max(sum(before.values()), 1e-12)
    return replace(
        found,
        stays={n: _share(after[n], before[n], drift, common) for n in narrower},
        drift=drift,
        common=common,
        power=math.log(max(finetuning(run), steps)) / math.log(max(steps, 2)),
    )


def without_blocks(
    run: Run, cutter: Cutter, yard: worth.Yardstick, found: worth.Losses, blocks: Blocks, steps: int
) -> dict[str, float]:
    """Block -> what stays of the loss of its removal after the fine-tuning, judged as `healed` judges widths.

    Before any training a network without a block is all but lost, and after it often hardly worse than the whole.
    """
    whole = cutter.graph.widths()
    cuts = {f"without {n}": {**whole, **dict.fromkeys(groups, 0)} for n, groups in blocks.items()}
    loss = _trained(run, cutter, yard, steps, cuts)
    after = {n: max(0.0, loss[f"without {n}"] - found.drift) for n in blocks}
    stays = {n: _share(after[n], found.removed[n], found.drift, found.common) for n in blocks}
    return {n: found.removed[n] * stays[n] ** found.power for n in blocks}


def _share(after: float, before: float, drift: float, common: float) -> float:
    """Of a loss, the share that stays; drawn to the common one where it is small beside the drift."""
    return min(1.0, max(0.02, (after + drift * common) / (before + drift)))


def _trained(run: Run, cutter: Cutter, yard: worth.Yardstick, steps: int, cuts: dict[str, Widths]) -> dict[str, float]:
    """The losses of cut networks, each trained for `steps` on the same batches."""
    known = _Notes(run, "recovery", cutter, steps)
    count(run, steps * len(cuts))
    batches = load.batches(run, run.recipe.calibration, run.recipe.seed + 2)
    done = sum(name in known.loss for name in cuts)
    with Progress("recovery", steps * len(cuts), steps * done, unit="steps") as bar:
        for name, widths in cuts.items():
            if name not in known.loss:
                cut = _cut(run, cutter, widths)
                apart, cfg = load.task(run).apart, run.recipe.calibration
                imitate(cut, cutter.net, batches.stream(), steps, cfg, apart, bar.advance, GENTLE)
                yard.settle(cut)
                known.add(name, yard.loss(cut.eval()))
    return {name: known.loss[name] for name in cuts}


def contest(run: Run, cutter: Cutter, contestants: dict[str, Widths], steps: int) -> dict[str, float]:
    """Contestant -> what stays of its divergence from the dense network (nats a pixel) after `steps` on the same batches.

    Layers are judged one at a time everywhere else; here whole networks are, as they would be shipped. A killed contest
    goes on with the next contestant; `prune/contest.json` keeps what each kept and lost.
    """
    lost = _Notes(run, "contest", cutter, [steps, contestants])
    count(run, steps * len(contestants))
    cfg, apart = run.recipe.calibration, load.task(run).apart
    batches = load.batches(run, cfg, run.recipe.seed + 3)
    with Progress("contest", steps * len(contestants), steps * len(lost.loss), unit="steps") as bar:
        for name, widths in contestants.items():
            if name not in lost.loss:
                cut = _cut(run, cutter, widths)
                lost.add(
                    name,
                    imitate(cut, cutter.net, batches.stream(), steps, cfg, apart, bar.advance),
                )
        lost.tell(contestants)
    return lost.loss


def count(run: Run, steps: int) -> None:
    """Optimiser steps of networks that only serve to judge widths; those of a killed attempt, too."""
    run.kept["judging_steps"] = run.kept.get("judging_steps", 0) + steps


def _cut(run: Run, cutter: Cutter, widths: Widths) -> nn.Module:
    """The shrunk network, on the CPU, where the cutter's network need not be."""
    device = next(cutter.net.parameters()).device
    cutter.net.cpu()
    small = cutter.small(cutter.plan(widths), load.example(run))
    cutter.net.to(device)
    return small


class _Notes:
    """Losses by name, kept in `prune/<title>.json` as they come; those of the very same measurement are gone on from."""

    def __init__(self, run: Run, title: str, cutter: Cutter, more: object) -> None:
        self._path: Path = notes.home(run) / f"{title}.json"
        about = [
            run.recipe.calibration.model_dump(mode="json", exclude={"command", "checkpoint"}),
            run.recipe.seed,
            more,
        ]
        self._key = notes.key_of(run, cutter, about)
        self.loss: dict[str, float] = notes.told(self._path, self._key).get("loss", {})

    def add(self, name: str, loss: float) -> None:
        self.loss[name] = loss
        self.tell(None)

    def tell(self, widths: dict[str, Widths] | None) -> None:
        """Write the notes, with what else there is to say."""
        notes.keep(self._path, {"key": self._key, "loss": self.loss, **({"widths": widths} if widths else {})})
