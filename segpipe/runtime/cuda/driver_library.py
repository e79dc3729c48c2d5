"""The driver's own library by ctypes: which GPUs are here, and what PyCUDA lacks (graphs, other people's streams)."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from segpipe.errors import BackendError, BackendMissingError
from segpipe.runtime.cuda.device import cuda_error

_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
_RELAXED = 2  # CU_STREAM_CAPTURE_MODE_RELAXED
_TIMING = 0  # CU_EVENT_DEFAULT
_NO_TIMING = 2  # CU_EVENT_DISABLE_TIMING
_STATUSES = 1000  # CUDA_ERROR_UNKNOWN is 999


def load_driver() -> ctypes.CDLL:
    """The library itself; a GPU backend asks for it before anything else."""
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError as error:
        raise BackendMissingError(
            "there is no NVIDIA driver", hint="backends on a GPU need one; onnxruntime-cpu does not"
        ) from error


def has_driver() -> bool:
    """Whether the library is there; it is not started."""
    try:
        load_driver()
    except BackendMissingError:
        return False
    return True


@dataclass(frozen=True)
class Gpu:
    """One GPU, as `NVIDIA H200 (9.0)`."""

    name: str
    capability: tuple[int, int]
    memory_bytes: int

    def __str__(self) -> str:
        return "{} ({}.{})".format(self.name, *self.capability)


def are_hidden() -> bool:
    """Whether the environment keeps every GPU from CUDA."""
    return os.environ.get("CUDA_VISIBLE_DEVICES") in {"", "-1"}


def gpus() -> list[Gpu]:
    """The GPUs that CUDA shows, from the driver itself; none where it is missing or does not start.

    The driver is started for that, and a process that has done so cannot fork and use a GPU in the child.
    """
    if are_hidden():
        return []
    try:
        driver = load_driver()
    except BackendMissingError:
        return []
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return []
    return [_gpu(driver, index) for index in range(count.value)]


def gpu_name(index: int = 0) -> str | None:
    """`NVIDIA H200 (9.0)`; None without a GPU."""
    found = gpus()
    return str(found[index]) if index < len(found) else None


def _gpu(driver: ctypes.CDLL, index: int) -> Gpu:
    device, name = ctypes.c_int(), ctypes.create_string_buffer(128)
    major, minor, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceGetAttribute(ctypes.byref(major), 75, device)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
    driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    return Gpu(name.value.decode(), (major.value, minor.value), memory.value)


def driver_version() -> int:
    """The newest CUDA that the driver knows: 13000 for 13.0."""
    number = ctypes.c_int()
    load_driver().cuDriverGetVersion(ctypes.byref(number))
    return number.value


class DriverLibrary:
    """Some dozen functions. Handles are integers; the caller's context is the current one."""

    def __init__(self) -> None:
        self._library = load_driver()

    def wait_for(self, stream: int, other: int) -> None:
        """Order `stream` behind `other`."""
        event = ctypes.c_void_p()
        self._call("cuEventCreate", ctypes.byref(event), _NO_TIMING)
        try:
            self._call("cuEventRecord", event, _handle(other))
            self._call("cuStreamWaitEvent", _handle(stream), event, 0)
        finally:
            self._call("cuEventDestroy_v2", event)

    def mark(self, stream: int) -> int:
        """An event with a time, recorded."""
        event = ctypes.c_void_p()
        self._call("cuEventCreate", ctypes.byref(event), _TIMING)
        try:
            self._call("cuEventRecord", event, _handle(stream))
        except BackendError:
            self._library.cuEventDestroy_v2(event)
            raise
        return event.value or 0

    def milliseconds(self, first: int, second: int) -> float:
        """By the GPU's clock."""
        passed = ctypes.c_float()
        self._call("cuEventElapsedTime", ctypes.byref(passed), _handle(first), _handle(second))
        return passed.value

    def drop_mark(self, mark: int) -> None:
        """Give an event back."""
        self._call("cuEventDestroy_v2", _handle(mark))

    def begin_capture(self, stream: int) -> None:
        """Record instead of run."""
        self._call("cuStreamBeginCapture_v2", _handle(stream), _THREAD_LOCAL)

    def end_capture(self, stream: int) -> int:
        """Instantiate what was recorded; 0 when that is nothing."""
        graph, executable, nodes = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_size_t()
        status = self._library.cuStreamEndCapture(_handle(stream), ctypes.byref(graph))
        if status != 0 or not graph.value:
            return 0
        try:
            self._call("cuGraphGetNodes", graph, None, ctypes.byref(nodes))
            if nodes.value:
                flags = ctypes.c_ulonglong(0)
                self._call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, flags)
        finally:
            self._call("cuGraphDestroy", graph)
        return executable.value or 0

    @contextmanager
    def relaxed(self) -> Iterator[None]:
        """This thread's rules for captures are put aside: what CUDA calls potentially unsafe breaks none."""
        rules = ctypes.c_int(_RELAXED)
        self._call("cuThreadExchangeStreamCaptureMode", ctypes.byref(rules))
        try:
            yield
        finally:
            self._call("cuThreadExchangeStreamCaptureMode", ctypes.byref(rules))

    def launch_graph(self, graph: int, stream: int) -> None:
        """Replay."""
        self._call("cuGraphLaunch", _handle(graph), _handle(stream))

    def destroy_graph(self, graph: int) -> None:
        """Give a graph back."""
        self._call("cuGraphExecDestroy", _handle(graph))

    def error_name(self, text: str) -> str:
        """The name of the error that is described so: CUDA_ERROR_OUT_OF_MEMORY for 'out of memory'."""
        described, name = ctypes.c_char_p(), ctypes.c_char_p()
        for status in range(_STATUSES):
            known = self._library.cuGetErrorString(status, ctypes.byref(described)) == 0
            if known and (described.value or b"").decode() == text:
                self._library.cuGetErrorName(status, ctypes.byref(name))
                return (name.value or b"").decode()
        return text

    def _call(self, name: str, *arguments: Any) -> None:
        status: int = getattr(self._library, name)(*arguments)
        if status != 0:
            text = ctypes.c_char_p()
            self._library.cuGetErrorName(status, ctypes.byref(text))
            raise cuda_error(name, (text.value or str(status).encode()).decode())


def _handle(value: int) -> ctypes.c_void_p:
    return ctypes.c_void_p(value)
