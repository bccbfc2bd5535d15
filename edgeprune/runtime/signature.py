"""The operator signature: what decides how long a convolution takes on a device, but for its numbers of channels."""

from __future__ import annotations

from dataclasses import astuple, dataclass

Pair = tuple[int, int]


@dataclass(frozen=True, order=True)
class Signature:
    """A convolution's geometry, dilation included, with the activation that engines fuse into it.

    kind: "conv" or "deconv". `size` is the input map (H, W). `groups` is 0 for a depthwise convolution, whose groups are
    its channels; otherwise the count, and channel counts of inputs are those of one group.
    """

    kind: str
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    size: Pair
    batch: int = 1
    activation: str = "relu"

    @property
    def depthwise(self) -> bool:
        return self.groups == 0

    @property
    def key(self) -> str:
        """As text, for tables: "conv k3x3 s1x1 p1x1 d1x1 g1 32x64 b1 relu"."""
        kind, kernel, stride, padding, dilation, groups, size, batch, activation = astuple(self)
        parts = [f"{n}{a}x{b}" for n, (a, b) in zip("kspd", (kernel, stride, padding, dilation), strict=True)]
        return f"{kind} {' '.join(parts)} g{groups} {size[0]}x{size[1]} b{batch} {activation}"

    @property
    def out_size(self) -> Pair:
        """(H, W) of the result."""
        sides = zip(self.size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        if self.kind == "deconv":
            return tuple((n - 1) * s - 2 * p + d * (k - 1) + 1 for n, k, s, p, d in sides)  # type: ignore[return-value]
        return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sides)  # type: ignore[return-value]

    def macs(self, inputs: int, outputs: int) -> int:
        """Multiply-adds at these channel counts."""
        pixels = self.size if self.kind == "deconv" else self.out_size
        per = 1 if self.depthwise else inputs
        return self.batch * self.kernel[0] * self.kernel[1] * pixels[0] * pixels[1] * per * outputs

    def bytes(self, inputs: int, outputs: int, width: int) -> int:
        """Bytes that must move at least: input, weights and output once, `width` bytes a number."""
        first, second = self.size[0] * self.size[1], self.out_size[0] * self.out_size[1]
        taken = outputs if self.depthwise else inputs * max(1, self.groups)
        weights = self.kernel[0] * self.kernel[1] * outputs * (1 if self.depthwise else inputs)
        return width * (self.batch * (first * taken + second * outputs) + weights)
