"""HALP's saliency (Shen et al., NeurIPS 2022, arXiv 2110.10811): Taylor on the norms, for a latency knapsack.

    I_i = | sum_{l in group} (gamma dL/dgamma + beta dL/dbeta) |, averaged over batches

Exact (after the released code): the products, the signs kept within a group, the absolute value before the average.
Its knapsack is `prune.allocate: knapsack` with a latency budget, over widths on the device's own steps; `prune.worth: sum`
adds up raw saliencies as HALP does (the default there is our measured sensitivity). Where HALP needs a precedence rule
between blocks and slack for latencies that rise, ours chooses one width a group and needs neither.
Our readings: gradients of the trained network in evaluation mode over calibration batches (HALP: during training, since
the last pruning step); one cut and not thirty (`prune.rounds` adds more); no whole layers are removed.
"""

from __future__ import annotations

from typing import Literal

from edgeprune.prune.criteria.taylor import Taylor


class HALP(Taylor):
    """|Taylor of scale and shift|, averaged over batches."""

    def __init__(self, normalise: Literal["layer", "none"] = "none") -> None:
        super().__init__("norm", 1, normalise)
