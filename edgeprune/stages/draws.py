"""Questions that are asked before a training must not change it: what they draw at random is as if it had not been drawn."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


@contextlib.contextmanager
def draws_kept() -> Iterator[None]:
    """Afterwards the generators of Python, NumPy and PyTorch (on the CPU) go on as if nothing had been drawn in here."""
    python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(of_numpy)  # noqa: NPY002
