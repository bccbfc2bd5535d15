"""PyTorch as engines run: one image at a time, in evaluation mode, in whole f32."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from edgeprune.data.transforms import Normalisation, normalised

Predict = Callable[[np.ndarray], np.ndarray]


def one_by_one(net: nn.Module, by: Normalisation, answer: Callable[[torch.Tensor], torch.Tensor]) -> Predict:
    """(B, H, W, 3) uint8 images to (B, ...) answers, each image by itself.

    What a network makes of an image may hang on those beside it (a norm without running statistics); an engine sees none beside it.
    TF32, which cuDNN takes for f32 convolutions unless it is told not to, and a caller's autocast are off.

    Args:
        net: it is set to evaluation.
        answer: of a normalised image (1, 3, H, W), where the network is, to (1, ...).
    """
    device = next(net.eval().parameters()).device

    def predict(images: np.ndarray) -> np.ndarray:
        whole = torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False)
        with torch.no_grad(), torch.autocast(device.type, enabled=False), whole:
            return np.concatenate([answer(normalised(i[None], by).to(device)).cpu().numpy() for i in images])

    return predict
