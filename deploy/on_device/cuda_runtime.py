"""The calls of the CUDA runtime that an engine needs, through ctypes, so that no other package is wanted. stdlib and numpy."""

import ctypes
import ctypes.util
import glob
import importlib.util
import os

import numpy as np

_NAMES = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0")
_BLOCKING_SYNC = 1  # cudaEventBlockingSync
_PROPERTY = {"major": 75, "minor": 76, "multiprocessors": 16, "integrated": 18}  # cudaDeviceAttr, driver_types.h


class Cuda:
    """One stream of one device. Raises RuntimeError with one line where CUDA is not there or says no."""

    def __init__(self, library=None):
        self.lib = library or _library()
        if hasattr(self.lib, "cudaGetErrorString"):
            self.lib.cudaGetErrorString.restype = ctypes.c_char_p
        stream = ctypes.c_void_p()
        self._do("cudaStreamCreate", ctypes.byref(stream))
        self.stream = stream.value
        self._done = self.event()

    def _do(self, name, *args):
        status = getattr(self.lib, name)(*args)
        if status:
            words = self.lib.cudaGetErrorString(status) if hasattr(self.lib, "cudaGetErrorString") else b""
            told = words.decode() if isinstance(words, bytes) else ""
            raise RuntimeError("CUDA: %s failed with error %d %s" % (name, status, told))

    def allocate(self, size):
        """Address of so many bytes on the device."""
        address = ctypes.c_void_p()
        self._do("cudaMalloc", ctypes.byref(address), ctypes.c_size_t(size))
        return address.value

    def pinned(self, shape, kind):
        """A numpy array in page-locked host memory, which the device copies from and to without a detour."""
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        address = ctypes.c_void_p()
        self._do("cudaMallocHost", ctypes.byref(address), ctypes.c_size_t(size))
        held = (ctypes.c_uint8 * size).from_address(address.value)
        return np.frombuffer(held, dtype=kind).reshape(shape)

    def _copy(self, to, source, size, kind):
        self._do(
            "cudaMemcpyAsync", ctypes.c_void_p(to), ctypes.c_void_p(source), ctypes.c_size_t(size), kind,
            ctypes.c_void_p(self.stream),
        )  # fmt: skip

    def to_device(self, address, array):
        self._copy(address, array.ctypes.data, array.nbytes, 1)

    def to_host(self, array, address):
        self._copy(array.ctypes.data, address, array.nbytes, 2)

    def wait(self):
        """Until the stream is done. By an event: whether a stream is waited for by spinning hangs on driver and power mode."""
        self.record(self._done)
        self._do("cudaEventSynchronize", ctypes.c_void_p(self._done))

    def event(self):
        """An event whose waiting thread sleeps, as trtexec's do without --useSpinWait."""
        made = ctypes.c_void_p()
        self._do("cudaEventCreateWithFlags", ctypes.byref(made), ctypes.c_uint(_BLOCKING_SYNC))
        return made.value

    def record(self, event):
        self._do("cudaEventRecord", ctypes.c_void_p(event), ctypes.c_void_p(self.stream))

    def between(self, start, end):
        """Milliseconds of the device between two recorded events, once the second has happened."""
        self._do("cudaEventSynchronize", ctypes.c_void_p(end))
        ms = ctypes.c_float()
        self._do("cudaEventElapsedTime", ctypes.byref(ms), ctypes.c_void_p(start), ctypes.c_void_p(end))
        return ms.value

    def free_mb(self):
        """What is free of the device's memory, in MB."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._do("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value >> 20

    def device(self):
        """{"cc", "multiprocessors", "integrated", "runtime", "driver"}: what an engine is bound to."""
        told = {name: self._number("cudaDeviceGetAttribute", number, 0) for name, number in _PROPERTY.items()}
        return {
            "cc": "%d.%d" % (told["major"], told["minor"]),
            "multiprocessors": told["multiprocessors"],
            "integrated": bool(told["integrated"]),
            "runtime": self._number("cudaRuntimeGetVersion"),
            "driver": self._number("cudaDriverGetVersion"),
        }

    def _number(self, name, *more):
        value = ctypes.c_int()
        self._do(name, ctypes.byref(value), *more)
        return value.value


def _library():
    system = (ctypes.util.find_library("cudart"), *_NAMES, "/usr/local/cuda/lib64/libcudart.so")
    for name in filter(None, (*system, *_wheels())):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise RuntimeError("libcudart is not found; is CUDA installed and on the library path?")


def _wheels():
    """Where NVIDIA's Python packages put it (nvidia/cuda_runtime/lib, nvidia/cu13/lib), the newest first."""
    package = importlib.util.find_spec("nvidia")
    folders = list(package.submodule_search_locations or ()) if package else []
    return sorted((p for f in folders for p in glob.glob(os.path.join(f, "*", "lib", "libcudart.so.*"))), reverse=True)
