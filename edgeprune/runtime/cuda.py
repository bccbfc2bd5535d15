"""The few calls of the CUDA driver that running an engine needs, by ctypes: the driver is where the GPU is, no package more.

Written against the documented interface of the driver; not run on hardware yet.
"""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import numpy as np

from edgeprune.errors import DeviceError

_LIBRARIES = ("libcuda.so.1", "nvcuda.dll")
_WAITS_ASLEEP = 1 | 2  # CU_EVENT_BLOCKING_SYNC, CU_EVENT_DISABLE_TIMING
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


class Gpu(NamedTuple):
    """A GPU: its name, and its compute capability such as "8.9"."""

    name: str
    capability: str


def missing() -> str | None:
    """Why there is no GPU here; None where there is one."""
    try:
        Cuda().gpu()
    except DeviceError as error:
        return str(error)
    return None


class Cuda:
    """The first GPU's primary context and one stream.

    Raises:
        DeviceError: no driver, no GPU, or a call that failed.
    """

    def __init__(self) -> None:
        for name in _LIBRARIES:
            try:
                self._driver = ctypes.CDLL(name)
                break
            except OSError:
                continue
        else:
            raise DeviceError("no NVIDIA GPU here (the driver's library libcuda is not found)")
        self._do("cuInit", 0)
        self._device, self._context = ctypes.c_int(), ctypes.c_void_p()
        stream, self._done = ctypes.c_void_p(), ctypes.c_void_p()
        self._do("cuDeviceGet", ctypes.byref(self._device), 0)
        self._do("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        self._do("cuCtxSetCurrent", self._context)
        self._do("cuStreamCreate", ctypes.byref(stream), 1)  # 1: does not wait for the default stream
        self._do("cuEventCreate", ctypes.byref(self._done), _WAITS_ASLEEP)
        self.stream: int = stream.value or 0

    def _do(self, call: str, *args: object) -> None:
        status = getattr(self._driver, call)(*args)
        if status:
            raise DeviceError(f"no NVIDIA GPU can be used here ({call} of the driver gives error {status})")

    def gpu(self) -> Gpu:
        """Which GPU it is."""
        name, major, minor = ctypes.create_string_buffer(256), ctypes.c_int(), ctypes.c_int()
        self._do("cuDeviceGetName", name, 256, self._device)
        self._do("cuDeviceGetAttribute", ctypes.byref(major), _MAJOR, self._device)
        self._do("cuDeviceGetAttribute", ctypes.byref(minor), _MINOR, self._device)
        return Gpu(name.value.decode(), f"{major.value}.{minor.value}")

    def allocate(self, size: int) -> int:
        """The address of `size` bytes on the GPU; they stay until the process ends or `free`."""
        address = ctypes.c_uint64()
        self._do("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return address.value

    def free(self, address: int) -> None:
        """Give memory back."""
        self._do("cuMemFree_v2", ctypes.c_uint64(address))

    def to_device(self, address: int, array: np.ndarray) -> None:
        """Copy a contiguous array, in the stream's order."""
        self._do(
            "cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), ctypes.c_void_p(array.ctypes.data),
            ctypes.c_size_t(array.nbytes), ctypes.c_void_p(self.stream),
        )  # fmt: skip

    def to_host(self, array: np.ndarray, address: int) -> None:
        """Copy back into a contiguous array, in the stream's order."""
        self._do(
            "cuMemcpyDtoHAsync_v2", ctypes.c_void_p(array.ctypes.data), ctypes.c_uint64(address),
            ctypes.c_size_t(array.nbytes), ctypes.c_void_p(self.stream),
        )  # fmt: skip

    def wait(self) -> None:
        """Until the stream is done. By an event: whether a stream is waited for by spinning hangs on driver and power mode."""
        self._do("cuEventRecord", self._done, ctypes.c_void_p(self.stream))
        self._do("cuEventSynchronize", self._done)
