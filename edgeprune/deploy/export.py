"""Export: the graph that ships, with pre-processing inside: uint8 images in, classes or a network's raw heads out, one file."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from edgeprune.deploy.heads import COARSE, HEADS, argmax, coarsened
from edgeprune.deploy.pools import with_pooled_means, with_split_pools
from edgeprune.errors import ExportError
from edgeprune.files import replace_with, write_atomic
from edgeprune.models import logits_of
from edgeprune.progress import doing


class Heads(nn.Module):
    """uint8 (1, H, W, 3) RGB to the network's own answer as float32, under the name `output`."""

    scale: torch.Tensor
    shift: torch.Tensor
    kind: torch.dtype = torch.uint8  # of classes

    def __init__(self, net: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], output: str) -> None:
        super().__init__()
        self.net, self.outputs, self.head = with_split_pools(net.eval()), [output], output
        self.register_buffer("scale", 1 / (255 * torch.tensor(std)).view(1, 3, 1, 1))
        self.register_buffer("shift", (-torch.tensor(mean) / torch.tensor(std)).view(1, 3, 1, 1))

    def forward(self, image: torch.Tensor) -> Any:
        return self.answer(image).to(torch.float32)  # also of a network that computes in another type

    def answer(self, image: torch.Tensor) -> torch.Tensor:
        """The network's own answer, in the type that it computes in."""
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
        self.logits, self.head = logits, head
        if logits:
            self.outputs.append("logits")

    def forward(self, image: torch.Tensor) -> Any:
        logits = self.answer(image)
        if logits.shape[-2:] != image.shape[1:3]:
            logits = nn.functional.interpolate(logits, size=image.shape[1:3], mode="bilinear", align_corners=False)
        classes = HEADS.get(self.head, argmax)(logits).to(self.kind)
        return (classes, logits) if self.logits else classes


class Lower(nn.Module):
    """A network that computes in another float type; what goes in and what is done with its answer stays outside."""

    def __init__(self, net: nn.Module, kind: torch.dtype) -> None:
        super().__init__()
        self.net, self.kind = copy.deepcopy(net).to(kind), kind

    def forward(self, x: torch.Tensor) -> Any:
        return self.net(x.to(self.kind))


FLOATS = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
BYTES = (torch.uint8, torch.uint8)  # types of images and classes
WIDE = (torch.float32, torch.int32)  # where nothing casts to uint8 (torch-tensorrt); values are those of bytes


def program(
    shipped: Heads, size: tuple[int, int], precision: str, device: str, kinds: tuple[torch.dtype, torch.dtype] = BYTES
) -> torch.export.ExportedProgram:
    """`shipped` as PyTorch's own compilers take it, for (1, H, W, 3) images on `device`, with the precision inside.

    Args:
        kinds: see `BYTES` and `WIDE`.

    Raises:
        ExportError: a precision that is no float type, or a network that cannot be captured.
    """
    if precision not in FLOATS:
        raise ExportError(f"deploy.precision: a network in PyTorch runs at {', '.join(FLOATS)}, not {precision}")
    lowered = copy.copy(shipped)
    lowered.kind = kinds[1]
    lowered._modules = {"net": shipped.net if precision == "f32" else Lower(shipped.net, FLOATS[precision])}
    image = torch.zeros(1, *size, 3, dtype=kinds[0], device=device)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(lowered.to(device).eval(), (image,))
    except Exception as error:  # its errors have no common class
        line = next((text for text in str(error).splitlines() if text.strip()), type(error).__name__)
        raise ExportError(f"export: PyTorch cannot capture the network: {line.strip()[:200]}") from error


@doing("exporting")
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
        model = with_pooled_means(onnx.load(path))
        write_atomic(path, (coarsened(model) if shipped.head == COARSE else model).SerializeToString())
    except ExportError:
        path.unlink(missing_ok=True)
        raise
    except Exception as error:
        line = next((text for text in reversed(str(error).splitlines()) if text.strip()), type(error).__name__)
        raise ExportError(f"export: PyTorch cannot export the network to ONNX: {line.strip()[:200]}") from error
    finally:
        logging.disable(before)
