"""A prior for devices that are not at hand: the roofline of the maker's figures. An estimate, never a measurement.

    ms = max(2 MACs / peak, bytes / bandwidth) / efficiency + launch

Channels are padded to the target's step, as its kernels do. Efficiency and launch time are ours, typical of convolutions
at batch 1; they cancel in ratios to the dense network, and absolute milliseconds may be off by a factor of two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgeprune.runtime.signature import Signature

EFFICIENCY, LAUNCH_MS = 0.5, 0.004
BYTES = {"f32": 4, "f16": 2, "bf16": 2, "int8": 1}


@dataclass(frozen=True)
class Roofline:
    """A `Surface` from the maker's figures: `at(inputs, outputs)` in estimated milliseconds."""

    signature: Signature
    tera: float  # 10^12 operations a second
    bandwidth: float  # 10^9 bytes a second
    width: int  # bytes a number
    step: int

    def at(self, inputs: int, outputs: int) -> float:
        inputs, outputs = (-(-n // self.step) * self.step for n in (inputs, outputs))
        compute = 2 * self.signature.macs(inputs, outputs) / (self.tera * 1e9)
        traffic = self.signature.bytes(inputs, outputs, self.width) / (self.bandwidth * 1e6)
        return max(compute, traffic) / EFFICIENCY + LAUNCH_MS


def surfaces(signatures: Any, catalogue: Any, precision: str, step: int) -> dict[Signature, Roofline]:
    """A roofline for each signature, or {} where the catalogue lacks the figures."""
    tera = {"int8": catalogue.int8_tops, "f32": (catalogue.fp16_tflops or 0) / 4}.get(precision, catalogue.fp16_tflops)
    if not tera or not catalogue.bandwidth_gb_s:
        return {}
    return {s: Roofline(s, tera, catalogue.bandwidth_gb_s, BYTES[precision], step) for s in signatures}
