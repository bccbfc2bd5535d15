"""Where the promise of fewer MACs was kept and where it was lost: dense and pruned engine, layer by layer, as measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeprune.profile.context import convolutions
from edgeprune.profile.probes import Key
from edgeprune.runtime.engine import Layer

KEPT = 0.8  # the share of the promised milliseconds from which on a layer has kept its promise
_INTENSITY = 12.0  # MACs a byte below which moving data is what takes the time (f32; CPUs and GPUs have 10 to 100)
_LAUNCH_MS = 0.02  # a call that takes no longer than this is mostly overhead


def explain(
    onnx: tuple[Path, Path],
    layers: tuple[Sequence[Layer], Sequence[Layer]],
    step: int,
    modules: Sequence[str] = (),
    removed: Sequence[str] = (),
    width: int = 4,
) -> dict[str, Any]:
    """Convolutions of the dense and the pruned graph side by side.

    Args:
        onnx: the dense and the pruned graph as they ship.
        layers: what each layer of their engines takes.
        step: the device's channel step.
        modules: the convolutions' names in the network, in its order; where they fit they tell who is who, else the
            graphs' own names do.
        removed: those of them that have vanished with a block.
        width: bytes a number.

    Returns:
        {"rows": [{name, shape, channels, macs, ms, promised, saved, why}], "other": [ms, ms]}: pairs are [dense, pruned];
        `promised` is the milliseconds that would be saved if time went with MACs.
    """
    before, after = (convolutions(path) for path in onnx)
    times = [{layer.name: layer.ms for layer in found} for found in layers]
    rows = []
    for name, first, second in _pairs(before, after, modules, removed):
        old, new = before[first], after.get(second) if second else None
        if first not in times[0] or (new is not None and second not in times[1]):
            continue
        kept = [k and (k.inputs, k.outputs) for k in (old, new)]
        macs = [0 if k is None else k.signature.macs(k.inputs, k.outputs) for k in (old, new)]
        ms = [times[0][first], 0.0 if new is None else times[1][second]]
        promised, saved = ms[0] * (1 - macs[1] / macs[0]), ms[0] - ms[1]
        rows.append(
            {
                "name": name, "shape": old.signature.key, "channels": [list(k) if k else [0, 0] for k in kept],
                "macs": macs, "ms": ms, "promised": promised, "saved": saved,
                "why": "removed" if new is None else _why(old, new, ms[1], promised, saved, step, width),
            }
        )  # fmt: skip
    named = [sum(r["ms"][k] for r in rows) for k in (0, 1)]
    whole = [sum(layer.ms for layer in found) for found in layers]
    rows.sort(key=lambda r: r["saved"] - r["promised"])
    return {"rows": rows, "other": [w - n for w, n in zip(whole, named, strict=True)], "step": step}


def _pairs(
    before: dict[str, Key], after: dict[str, Key], modules: Sequence[str], removed: Sequence[str]
) -> list[tuple[str, str, str]]:
    """(name, of the dense graph, of the pruned one or ""). What is left stands in the same order, with the same geometry."""
    if len(modules) != len(before):
        return [(name, name, name) for name in before if name in after]
    left, found = list(after), []
    for module, (name, old) in zip(modules, before.items(), strict=True):
        stays = bool(left) and module not in removed and after[left[0]].signature == old.signature
        found.append((module, name, left.pop(0) if stays else ""))  # else it went, or was folded: all that it read went
    return found if not left else [(name, name, name) for name in before if name in after]


def _why(old: Key, new: Key, ms: float, promised: float, saved: float, step: int, width: int) -> str:
    if (old.inputs, old.outputs) == (new.inputs, new.outputs):
        return "not pruned"
    if saved >= KEPT * promised:
        return "kept its promise"
    if ms <= _LAUNCH_MS:
        return "launch-bound"
    if new.outputs % step and new.outputs != old.outputs:
        return f"unaligned: {new.outputs} is no multiple of {step}"
    s = new.signature
    if s.macs(new.inputs, new.outputs) / s.bytes(new.inputs, new.outputs, width) < _INTENSITY:
        return "memory-bound"
    return "narrow: fewer channels keep the kernel less busy"
