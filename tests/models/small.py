"""Small versions of every network, for tests."""

from typing import Any

SMALL: dict[str, dict[str, Any]] = {
    "bisenetv2": {"width": 16, "semantic": 4, "head": 32, "aux_head": 8},
    "ddrnet": {"width": 8, "pool": 16, "head": 16},
    "deeplabv3": {"depth": 18, "width": 8, "head": 16},
    "deeplabv3plus": {"depth": 18, "width": 8, "head": 16},
    "enet": {"widths": (8, 16, 32), "sections": 1},
    "erfnet": {"widths": (8, 16, 32)},
    "fastscnn": {"shallow": (8, 8, 16), "deep": (16, 16, 32), "expand": 2, "head": 16},
    "icnet": {"width": 4, "head": 16, "fusion": 16, "detail": (8, 8, 8)},
    "pidnet": {"width": 8, "pool": 16, "head": 16},
    "pspnet": {"width": 4, "head": 16, "aux_head": 16},
    "segformer": {
        "widths": (8, 16, 20, 32),
        "heads": (1, 2, 5, 8),
        "hidden": (16, 32, 40, 64),
        "depths": (1, 1, 1, 1),
        "decoder": 16,
    },
    "segnet": {"widths": ((4, 4), (8, 8))},
    "streetnet": {"width": 8},
    "unet": {"widths": (4, 8, 16)},
}
