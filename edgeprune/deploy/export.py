"""Export: the graph that ships, with pre-processing inside: uint8 images in, classes or a network's raw heads out, one file."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgeprune.deploy.heads import HEADS
from edgeprune.deploy.pools import with_split_pools
from edgeprune.errors import ExportError
from edgeprune.files import replace_with
from edgeprune.models import logits_of


class Heads(nn.Module):
    """uint8 (1, H, W, 3) RGB to the network's own answer as float32, under the name `output`."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, net: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], output: str) -> None:
        super().__init__()
        self.net, self.outputs = with_split_pools(net.eval()), [output]
        self.register_buffer("scale", 1 / (255 * torch.tensor(std)).view(1, 3, 1, 1))
        self.register_buffer("shift", (-torch.tensor(mean) / torch.tensor(std)).view(1, 3, 1, 1))

    def forward(self, image: torch.Tensor) -> Any:
        # TensorRT takes uint8 at inputs and outputs only, right beside a cast from or to float
        x = image.to(torch.float32).permute(0, 3, 1, 2) * self.scale + self.shift
        return logits_of(self.net(x))


class Shipped(Heads):
    """uint8 (1, H, W, 3) RGB to uint8 (1, H, W) classes, with float32 (1, K, H, W) logits behind it if asked for."""

    def __init__(
        self,
        net: nn.Module,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        logits: bool = False,
        head: str = "argmax",
    ) -> None:
        super().__init__(net, mean, std, "classes")
        self.logits, self.head = logits, HEADS[head]
        if logits:
            self.outputs.append("logits")

    def forward(self, image: torch.Tensor) -> Any:
        logits = super().forward(image)
        if logits.shape[-2:] != image.shape[1:3]:
            logits = nn.functional.interpolate(logits, size=image.shape[1:3], mode="bilinear", align_corners=False)
        classes = self.head(logits).to(torch.uint8)
        return (classes, logits) if self.logits else classes


def export(shipped: Heads, size: tuple[int, int], path: Path, opset: int) -> None:
    """Write the ONNX file of `shipped` for (1, H, W, 3) images.

    Raises:
        ExportError: the exporter does not take the network.
    """
    image = torch.zeros(1, *size, 3, dtype=torch.uint8)
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # the exporter and its helpers log what users cannot act on
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                shipped.eval(),
                (image,),
                dynamo=True,
                opset_version=opset,
                input_names=["image"],
                output_names=shipped.outputs,
            )
        replace_with(path, lambda beside: program.save(str(beside), external_data=False))  # type: ignore[union-attr]
    except Exception as error:
        line = next((text for text in reversed(str(error).splitlines()) if text.strip()), type(error).__name__)
        raise ExportError(f"export: PyTorch cannot export the network to ONNX: {line.strip()[:200]}") from error
    finally:
        logging.disable(before)
