"""PyTorch as engines run: one image at a time, in evaluation mode, in whole f32."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

from edgeprune.data.transforms import Normalisation, normalised

Predict = Callable[[np.ndarray], np.ndarray]


def each_alone(net: nn.Module, by: Normalisation, answer: Callable[[torch.Tensor], torch.Tensor]) -> Predict:
    """(B, H, W, 3) uint8 images to (B, ...) answers, each image by itself.

    What a network makes of an image may hang on those beside it (a norm without running statistics); an engine sees none beside it.
    TF32, which cuDNN takes for f32 convolutions unless it is told not to, and a caller's autocast are off meanwhile.

    Args:
        net: it is set to evaluation.
        answer: of a normalised image (1, 3, H, W), where the network is, to (1, ...).
    """
    device = next(net.eval().parameters()).device

    def predict(images: np.ndarray) -> np.ndarray:
        with torch.no_grad(), torch.autocast(device.type, enabled=False), _whole_f32():
            return np.concatenate([answer(normalised(i[None], by).to(device)).cpu().numpy() for i in images])

    return predict


@contextlib.contextmanager
def _whole_f32() -> Iterator[None]:
    """In here f32 convolutions and products are not rounded to TF32 or BF16; all other switches of cuDNN stay as they are."""
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = convolutions
        torch.set_float32_matmul_precision(products)
