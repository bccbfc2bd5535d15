"""The rehearsal: what later stages do to a network, done once before anything is trained, in seconds, on a small image.

The untrained network has the same operators, modes and hooks as the trained one. Every step works on copies, and ends in one
line where it fails; what only has to be known comes back as a note.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from edgeprune.errors import ModelError, kind_and_line
from edgeprune.models.difference import apart, farthest
from edgeprune.models.outputs import floats
from edgeprune.models.state import load_weights, tensors_of, unchanged, weights_of
from edgeprune.train.memory import why_not_nhwc

SAME = 1e-5  # of the largest output: the same tensors by the same code; what is merged and taken out again comes back rounded
ALIKE = 1e-3  # where kernels may add up in another order
_RUNS = 4  # of one image: what draws one of two shifts is caught in seven cases of eight
_LOOKS = 8  # for the layer that draws, where a run differed

Loss = Callable[[Any, torch.Tensor], torch.Tensor]  # network output, the images that it is of: a scalar


@dataclass(frozen=True)
class Stage:
    """What the steps are given.

    Attributes:
        net: the network itself, which is left as it is.
        images: (2, 3, h, w) noise.
        build: a network built anew; by default a copy.
        loss: of what the network answers in training mode.
        channels_last: train in NHWC.
    """

    net: nn.Module
    images: torch.Tensor
    build: Callable[[], nn.Module]
    loss: Loss
    channels_last: bool = True

    def copied(self) -> nn.Module:
        return copy.deepcopy(self.net)


def mean_square(output: Any, images: torch.Tensor) -> torch.Tensor:
    """A loss for where none is known: of all that the network gives, but for classes that it masks by -inf."""
    values = [t.float().masked_fill(t == -torch.inf, 0.0) for t in floats(output)]
    return torch.stack([t.square().mean() for t in values]).sum()


def both_modes(stage: Stage) -> None:
    """The same layers and tensors in training and evaluation, and the same weights after evaluation and back."""
    net = stage.copied()
    _perturb(net.train())
    before, names = weights_of(net), _names(net)
    only = sorted(_names(net.eval()) ^ names)
    if only:
        where = "evaluation" if only[0] in _names(net) else "training"
        raise ModelError(
            f"model: {only[0]} exists in {where} mode only ({len(only)} such names), so what is trained and pruned is not what ships; keep "
            "layers and tensors the same in both modes, such as by merging them outside of train() and eval()"
        )
    for name, value in tensors_of(net.train()).items():
        if apart(value, before[name]) > SAME:
            raise ModelError(
                f"model: {name} is another tensor after eval() and train() than before; what eval() merges, train() has to take out again"
            )


def the_same_twice(stage: Stage) -> None:
    """Evaluation draws nothing."""
    net, image = stage.copied().eval(), stage.images[:1]
    first = _ran(net, image)
    if all(farthest(_ran(net, image), first) <= SAME for _ in range(_RUNS - 1)):
        return
    traced = _traced(net, image)
    pairs = (pair for _ in range(_LOOKS) for pair in zip(traced, _traced(net, image), strict=False))
    where = next((a[0] for a, b in pairs if farthest([a[1]], [b[1]]) > SAME), "in the network's own forward")
    raise ModelError(
        f"model: in evaluation mode the same image is answered differently each time; the first that differs is {where}; draw only where "
        "self.training is true (F.dropout takes training=self.training)"
    )


def a_copy_alone(stage: Stage) -> None:
    """A copy answers as the network does, and with its own tensors."""
    net, image = stage.copied().eval(), stage.images[1:]  # not the one that hooks have seen in the steps before
    held = _Held({value.untyped_storage().data_ptr(): name for name, value in tensors_of(stage.net).items()})
    with held:
        found = _ran(net, image)
    with unchanged(stage.net):
        wanted = _ran(stage.net.eval(), image)
    if held.name:
        raise held_by_original(f"computes with {held.name} of the network that it was copied from")
    if farthest(found, wanted) > SAME:
        raise held_by_original("answers otherwise than the network itself")


def held_by_original(what: str) -> ModelError:
    """A copy does not stand alone."""
    return ModelError(
        f"model: a copy of the network {what}, and so would its pruned copy: a hook or a function holds the original; reach modules through "
        "the hook's own arguments or through self, and keep what hooks see on the module"
    )


def one_alone(stage: Stage) -> str | None:
    """An image is answered alike alone and beside another."""
    net = stage.copied().eval()
    alone = _ran(net, stage.images[:1])
    together = [t[:1] for t in _ran(net, stage.images)]
    if farthest(alone, together) <= ALIKE:
        return None
    norms = [n for n, m in net.named_modules() if isinstance(m, _BatchNorm) and not m.track_running_stats]
    why = f"; {norms[0]} has no running statistics" if norms else ""
    return (
        f"what the network answers to an image hangs on the others of its batch{why}; engines see one image at a time"
    )


def as_nhwc(stage: Stage) -> str | None:
    """As trainings lay images out."""
    why = why_not_nhwc(stage.net, stage.images) if stage.channels_last else None
    return why and f"the network does not run in NHWC ({why}): it is trained in NCHW"


def a_step_and_back_from_disk(stage: Stage) -> None:
    """Loss, backward and optimiser; then what was saved and read into a network built anew answers as the trained one."""
    from safetensors.torch import load, save

    net = stage.copied().train()
    _teach(stage, net)
    wanted = _ran(net.eval(), stage.images[:1])
    fresh = stage.build()
    try:
        load_weights(fresh, load(save({name: t.contiguous() for name, t in weights_of(net).items()})))
    except RuntimeError as error:
        raise ModelError(
            f"model: the weights do not fit a network built anew ({kind_and_line(error)}); it has to be the same each time"
        ) from error
    off = farthest(_ran(fresh.eval(), stage.images[:1]), wanted)
    if not off <= SAME:
        raise ModelError(
            f"model: saved and read back, the network answers otherwise (by {off:.0e} of the largest): it learns something that is "
            "neither a parameter nor a buffer of its state_dict(); register_buffer makes it one"
        )


STEPS: tuple[Callable[[Stage], str | None], ...] = (
    both_modes,
    the_same_twice,
    a_copy_alone,
    one_alone,
    as_nhwc,
    a_step_and_back_from_disk,
)


def _teach(stage: Stage, net: nn.Module) -> None:
    moving = [p for p in net.parameters() if p.requires_grad]
    if not moving:
        raise ModelError("model: no weight of the network can be trained; all are frozen (requires_grad)")
    optimizer = torch.optim.SGD(moving, lr=1e-2)
    try:
        loss = stage.loss(net(stage.images), stage.images)
        if loss.requires_grad:
            loss.backward()
    except Exception as error:
        raise ModelError(f"model: one step of training fails: {kind_and_line(error)}") from error
    if not torch.isfinite(loss):
        raise ModelError(
            f"model: the loss of the untrained network is {float(loss.detach())}; look at its initial weights"
        )
    if all(p.grad is None for p in moving):
        raise ModelError("model: no weight gets a gradient; does forward detach, or run under torch.no_grad()?")
    nn.utils.clip_grad_norm_(moving, 1.0)
    optimizer.step()


def _ran(net: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        return floats(net(images))


def _perturb(net: nn.Module) -> None:
    """An update that begins at zero would hide what is merged."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            if p.is_floating_point() or p.is_complex():
                p += 0.1 * torch.randn(p.shape, generator=generator).to(p)


def _names(net: nn.Module) -> set[str]:
    return {n for n, _ in net.named_modules()} | set(tensors_of(net))


def _traced(net: nn.Module, image: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    """What each module is given and gives, in the order in which that happens."""
    seen: list[tuple[str, torch.Tensor]] = []

    def watch(name: str, what: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any = None) -> None:
            values = floats(args if output is None else output)
            seen.extend((f"what {name} ({type(module).__name__}) {what}", t.clone()) for t in values)

        return hook

    hooks = []
    for name, module in net.named_modules():
        if name:
            hooks += [module.register_forward_pre_hook(watch(name, "is given"))]
            hooks += [module.register_forward_hook(watch(name, "gives"))]
    try:
        _ran(net, image)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


class _Held(TorchDispatchMode):
    """Remembers the first tensor of another network that is computed with; `known`: where its tensors lie -> their names."""

    def __init__(self, known: dict[int, str]) -> None:
        super().__init__()
        self.known, self.name = {at: name for at, name in known.items() if at}, ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for t in tree_leaves((args, kwargs or {})):
            if not self.name and isinstance(t, torch.Tensor) and t.layout == torch.strided:
                self.name = self.known.get(t.untyped_storage().data_ptr(), "")
        return func(*args, **(kwargs or {}))
