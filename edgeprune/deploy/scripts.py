"""The device's scripts, loaded here as modules: what they know (JetPacks, checksums) is written down once, there."""

from __future__ import annotations

import importlib.util
from functools import cache
from types import ModuleType

from edgeprune.shipped import shipped


@cache
def script(name: str) -> ModuleType:
    """A script of `deploy/on_device` that imports none of the others."""
    spec = importlib.util.spec_from_file_location(
        f"edgeprune_on_device_{name}", shipped("deploy/on_device") / f"{name}.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
