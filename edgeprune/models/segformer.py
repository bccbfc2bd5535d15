"""SegFormer-B0 (Xie et al., NeurIPS 2021): a hierarchical transformer and a decoder of linear layers.

3.72 M parameters with 19 classes. Key names of Hugging Face's `SegformerForSemanticSegmentation`; `rename` takes those of
NVlabs/SegFormer too. Without stochastic depth. What a pruner can remove are the hidden channels of every Mix-FFN and the
decoder's: a stage's embedding goes through layer norms, which mix channels, and the heads' channels through attention.
With a tenth of those left, 0.36 of the MACs stay at 512x1024, so smaller budgets are out of reach.
"""

from __future__ import annotations

import re
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from edgeprune.models.ranges import Factor, Repeats, Width, Widths


def _tokens(x: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) to (B, H * W, C)."""
    return x.flatten(2).transpose(1, 2)


def _map(x: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """(B, H * W, C) to (B, C, H, W)."""
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], *size)


class PatchEmbedding(nn.Module):
    """Overlapping patches by a strided convolution."""

    def __init__(self, inp: int, out: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inp, out, kernel, stride, kernel // 2)
        self.layer_norm = nn.LayerNorm(out)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Size]:
        x = self.proj(x)
        return self.layer_norm(_tokens(x)), x.shape[-2:]


class SelfAttention(nn.Module):
    """Attention to a map that is reduced `reduce` times in each direction."""

    def __init__(self, width: int, heads: int, reduce: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.reduce = reduce
        if reduce > 1:
            self.sr = nn.Conv2d(width, width, reduce, reduce)
            self.layer_norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor, size: torch.Size) -> torch.Tensor:
        seen = self.layer_norm(_tokens(self.sr(_map(x, size)))) if self.reduce > 1 else x
        q, k, v = self._split(self.query(x)), self._split(self.key(seen)), self._split(self.value(seen))
        weights = torch.softmax(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5, dim=-1)
        return (weights @ v).transpose(1, 2).flatten(2)

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.heads, -1).permute(0, 2, 1, 3)


class Attention(nn.Module):
    """Self-attention and the layer behind it, under the names that checkpoints have."""

    def __init__(self, width: int, heads: int, reduce: int) -> None:
        super().__init__()
        self.self = SelfAttention(width, heads, reduce)
        self.output = nn.ModuleDict({"dense": nn.Linear(width, width)})

    def forward(self, x: torch.Tensor, size: torch.Size) -> torch.Tensor:
        return self.output["dense"](self.self(x, size))


class MixFFN(nn.Module):
    """Linear, 3x3 depthwise convolution, GELU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.dense1 = nn.Linear(width, hidden)
        self.dwconv = nn.ModuleDict({"dwconv": nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)})
        self.dense2 = nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor, size: torch.Size) -> torch.Tensor:
        return self.dense2(F.gelu(_tokens(self.dwconv["dwconv"](_map(self.dense1(x), size)))))


class Layer(nn.Module):
    """Attention and Mix-FFN, each with a norm before and a sum behind."""

    def __init__(self, width: int, heads: int, reduce: int, hidden: int) -> None:
        super().__init__()
        self.layer_norm_1, self.layer_norm_2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attention, self.mlp = Attention(width, heads, reduce), MixFFN(width, hidden)

    def forward(self, x: torch.Tensor, size: torch.Size) -> torch.Tensor:
        x = x + self.attention(self.layer_norm_1(x), size)
        return x + self.mlp(self.layer_norm_2(x), size)


class Encoder(nn.Module):
    """Four stages at strides 4, 8, 16 and 32."""

    def __init__(
        self, widths: tuple[int, ...], heads: tuple[int, ...], hidden: tuple[int, ...], depths: tuple[int, ...]
    ) -> None:
        super().__init__()
        inputs, reductions = (3, *widths[:-1]), (8, 4, 2, 1)
        self.patch_embeddings = nn.ModuleList(
            PatchEmbedding(inp, out, 7 if i == 0 else 3, 4 if i == 0 else 2)
            for i, (inp, out) in enumerate(zip(inputs, widths, strict=True))
        )
        self.block = nn.ModuleList(
            nn.ModuleList(Layer(w, h, r, n) for _ in range(depth))
            for w, h, r, n, depth in zip(widths, heads, reductions, hidden, depths, strict=True)
        )
        self.layer_norm = nn.ModuleList(nn.LayerNorm(w, eps=1e-6) for w in widths)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        found = []
        for embed, blocks, norm in zip(self.patch_embeddings, self.block, self.layer_norm, strict=True):
            x, size = embed(x)
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, size)
            x = _map(norm(x), size)
            found.append(x)
        return found


class DecodeHead(nn.Module):
    """Every stage to `width` channels and stride 4, joined by a 1x1 convolution."""

    def __init__(self, inputs: tuple[int, ...], width: int, classes: int) -> None:
        super().__init__()
        self.linear_c = nn.ModuleList(nn.ModuleDict({"proj": nn.Linear(inp, width)}) for inp in inputs)
        self.linear_fuse = nn.Conv2d(len(inputs) * width, width, 1, bias=False)
        self.batch_norm = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(0.1)
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, found: list[torch.Tensor]) -> torch.Tensor:
        size = found[0].shape[-2:]
        spread = []
        for x, linear in zip(found, self.linear_c, strict=True):
            y = _map(linear["proj"](_tokens(x)), x.shape[-2:])  # type: ignore[index]
            spread.append(F.interpolate(y, size=size, mode="bilinear", align_corners=False))
        x = F.relu(self.batch_norm(self.linear_fuse(torch.cat(spread[::-1], dim=1))))
        return self.classifier(self.dropout(x))


class SegFormer(nn.Module):
    """(B, 3, H, W) normalised images to (B, K, H, W) logits.

    Args:
        widths: embedding of each of the four stages; heads: of their attention; depths: their number of layers.
        hidden: channels inside each stage's Mix-FFN.
        decoder: channels of the decoder.
    """

    def __init__(
        self,
        classes: int,
        widths: Widths = (32, 64, 160, 256),
        heads: Annotated[tuple[Factor, ...], Field(max_length=20)] = (1, 2, 5, 8),
        hidden: Widths = (128, 256, 640, 1024),
        depths: Annotated[tuple[Repeats, ...], Field(max_length=20)] = (2, 2, 2, 2),
        decoder: Width = 256,
    ) -> None:
        super().__init__()
        self.segformer = nn.ModuleDict({"encoder": Encoder(widths, heads, hidden, depths)})
        self.decode_head = DecodeHead(widths, decoder, classes)
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.trunc_normal_(m.weight, std=0.02)
                nn.init.zeros_(m.bias)
            elif isinstance(m, nn.Conv2d):
                # over what a group alone puts out, as NVlabs/SegFormer does; no norm follows
                out = m.weight[0, 0].numel() * m.out_channels // m.groups
                nn.init.normal_(m.weight, std=(2 / out) ** 0.5)
                if m.bias is not None:
                    nn.init.zeros_(m.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.decode_head(self.segformer["encoder"](x))
        return F.interpolate(logits, size=x.shape[-2:], mode="bilinear", align_corners=False)

    def rename(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """NVlabs/SegFormer's names to ours; keys and values, which lie in one layer there, are parted."""
        if not any(k.startswith("backbone.") for k in tensors):
            return tensors
        found: dict[str, torch.Tensor] = {}
        for key, value in tensors.items():
            if key.startswith("decode_head.conv_seg."):  # mmsegmentation's, of no use in this head
                continue
            name = key
            for pattern, ours in _NVLABS:
                name = re.sub(pattern, ours, name)
            if ".kv." in name:
                half = value.shape[0] // 2
                found[name.replace(".kv.", ".key.")] = value[:half]
                found[name.replace(".kv.", ".value.")] = value[half:]
            else:
                found[name] = value
        return found


def _less(match: re.Match[str]) -> str:
    return str(int(match.group(1)) - 1)


def _numbered(before: str, after: str):
    return lambda match: f"{before}{_less(match)}{after}"


_NVLABS = (
    (r"^backbone\.patch_embed(\d)\.proj\.", _numbered("segformer.encoder.patch_embeddings.", ".proj.")),
    (r"^backbone\.patch_embed(\d)\.norm\.", _numbered("segformer.encoder.patch_embeddings.", ".layer_norm.")),
    (r"^backbone\.block(\d)\.", _numbered("segformer.encoder.block.", ".")),
    (r"^backbone\.norm(\d)\.", _numbered("segformer.encoder.layer_norm.", ".")),
    (r"\.norm([12])\.", r".layer_norm_\1."),
    (r"\.attn\.norm\.", ".attention.self.layer_norm."),
    (r"\.attn\.q\.", ".attention.self.query."),
    (r"\.attn\.(kv|sr)\.", r".attention.self.\1."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc([12])\.", r".mlp.dense\1."),
    (r"^decode_head\.linear_c(\d)\.", _numbered("decode_head.linear_c.", ".")),
    (r"^decode_head\.linear_fuse\.conv\.", "decode_head.linear_fuse."),
    (r"^decode_head\.linear_fuse\.bn\.", "decode_head.batch_norm."),
    (r"^decode_head\.linear_pred\.", "decode_head.classifier."),
)
