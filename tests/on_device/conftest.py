"""The device's scripts are imported as they are on the device: from their own folder; TensorRT and CUDA are stand-ins."""

import importlib.util
import sys
from pathlib import Path

import pytest

from edgeprune.shipped import shipped
from tests.on_device import graphs
from tests.on_device.fake_tensorrt import HALF, Fake, FakeCudart

sys.path.insert(0, str(shipped("deploy/on_device")))


@pytest.fixture
def cuda(monkeypatch):
    library = FakeCudart()
    monkeypatch.setattr(importlib.import_module("cuda_runtime"), "_library", lambda: library)
    return library


@pytest.fixture
def use(monkeypatch):
    def install(version, told=HALF, **more) -> Fake:
        fake = Fake(version, told, **more)
        monkeypatch.setitem(sys.modules, fake.name, fake.module)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
        return fake

    return install


@pytest.fixture(scope="module")
def graph(tmp_path_factory) -> Path:
    return graphs.write(tmp_path_factory.mktemp("graph"))
