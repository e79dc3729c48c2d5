"""The Device by cuda-python: wheels only, no compiler. The driver API through `cuda.bindings.driver`."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from cuda.bindings import driver
from numpy.typing import NDArray

from segpipe.errors import BackendError
from segpipe.runtime.cuda.device import BLOCK, cuda_error
from segpipe.runtime.cuda.driver_library import load_driver

_NON_BLOCKING = driver.CUstream_flags.CU_STREAM_NON_BLOCKING
_THREAD_LOCAL = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
_RELAXED = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
_TIMING = driver.CUevent_flags.CU_EVENT_DEFAULT
_NO_TIMING = driver.CUevent_flags.CU_EVENT_DISABLE_TIMING
_MAJOR = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
_MINOR = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR


class CudaPythonDevice:
    """One GPU by its primary context."""

    provider = "cuda-python"
    dlpack_type = 2

    def __init__(self, index: int) -> None:
        self.index = index
        load_driver()  # an error of ours where there is none
        _check("cuInit", driver.cuInit(0))
        self._device = _check("cuDeviceGet", driver.cuDeviceGet(index))
        name: bytes = _check("cuDeviceGetName", driver.cuDeviceGetName(128, self._device))
        self.name = name.partition(b"\0")[0].decode()
        major, minor = (
            int(_check("cuDeviceGetAttribute", driver.cuDeviceGetAttribute(which, self._device)))
            for which in (_MAJOR, _MINOR)
        )
        self.capability = (major, minor)
        self._context = _check("cuDevicePrimaryCtxRetain", driver.cuDevicePrimaryCtxRetain(self._device))

    @contextmanager
    def current(self) -> Iterator[None]:
        """Push the primary context, and pop it afterwards."""
        _check("cuCtxPushCurrent", driver.cuCtxPushCurrent(self._context))
        try:
            yield
        finally:
            _check("cuCtxPopCurrent", driver.cuCtxPopCurrent())

    def allocate(self, size_bytes: int) -> int:
        """Device memory."""
        return int(_check(f"allocating {size_bytes} bytes", driver.cuMemAlloc(size_bytes)))

    def free(self, pointer: int) -> None:
        """Give device memory back."""
        _check("cuMemFree", driver.cuMemFree(pointer))

    @contextmanager
    def relaxed(self) -> Iterator[None]:
        """This thread's rules for captures are put aside."""
        rules = _check("cuThreadExchangeStreamCaptureMode", driver.cuThreadExchangeStreamCaptureMode(_RELAXED))
        try:
            yield
        finally:
            _check("cuThreadExchangeStreamCaptureMode", driver.cuThreadExchangeStreamCaptureMode(rules))

    def allocate_pinned(self, size_bytes: int) -> NDArray[Any]:
        """Page-locked host memory."""
        pointer = int(_check(f"pinning {size_bytes} bytes", driver.cuMemHostAlloc(size_bytes, 0)))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size_bytes).from_address(pointer))

    def free_pinned(self, memory: NDArray[Any]) -> None:
        """Give page-locked memory back."""
        _check("cuMemFreeHost", driver.cuMemFreeHost(memory.ctypes.data))

    def free_memory_bytes(self) -> int:
        """What is left of the GPU's memory."""
        return int(_check("cuMemGetInfo", driver.cuMemGetInfo())[0])

    def upload(self, to: int, memory: NDArray[Any], stream: int) -> None:
        """Host to device."""
        _check("cuMemcpyHtoDAsync", driver.cuMemcpyHtoDAsync(to, memory.ctypes.data, memory.nbytes, stream))

    def download(self, memory: NDArray[Any], source: int, stream: int) -> None:
        """Device to host."""
        _check("cuMemcpyDtoHAsync", driver.cuMemcpyDtoHAsync(memory.ctypes.data, source, memory.nbytes, stream))

    def copy(self, to: int, source: int, size_bytes: int, stream: int) -> None:
        """Device to device."""
        _check("cuMemcpyDtoDAsync", driver.cuMemcpyDtoDAsync(to, source, size_bytes, stream))

    def create_stream(self) -> int:
        """A stream of our own."""
        return int(_check("cuStreamCreate", driver.cuStreamCreate(_NON_BLOCKING)))

    def destroy_stream(self, stream: int) -> None:
        """Give a stream back."""
        _check("cuStreamDestroy", driver.cuStreamDestroy(stream))

    def synchronize(self, stream: int) -> None:
        """Wait until a stream is done. Failures of its kernels come to light here."""
        _check("cuStreamSynchronize", driver.cuStreamSynchronize(stream))

    def wait_for(self, stream: int, other: int) -> None:
        """Order `stream` behind `other`."""
        event = _check("cuEventCreate", driver.cuEventCreate(_NO_TIMING))
        try:
            _check("cuEventRecord", driver.cuEventRecord(event, other))
            _check("cuStreamWaitEvent", driver.cuStreamWaitEvent(stream, event, 0))
        finally:
            _check("cuEventDestroy", driver.cuEventDestroy(event))

    def mark(self, stream: int) -> int:
        """An event with a time, recorded."""
        event = _check("cuEventCreate", driver.cuEventCreate(_TIMING))
        try:
            _check("cuEventRecord", driver.cuEventRecord(event, stream))
        except BackendError:
            driver.cuEventDestroy(event)
            raise
        return int(event)

    def milliseconds(self, first: int, second: int) -> float:
        """By the GPU's clock."""
        return float(_check("cuEventElapsedTime", driver.cuEventElapsedTime(first, second)))

    def drop_mark(self, mark: int) -> None:
        """Give an event back."""
        _check("cuEventDestroy", driver.cuEventDestroy(mark))

    def load_module(self, image: bytes) -> int:
        """Machine code or PTX."""
        return int(_check("cuModuleLoadData", driver.cuModuleLoadData(image)))

    def unload_module(self, module: int) -> None:
        """Give a module back."""
        _check("cuModuleUnload", driver.cuModuleUnload(module))

    def function(self, module: int, name: str) -> int:
        """A kernel by its name."""
        return int(_check(f"cuModuleGetFunction({name})", driver.cuModuleGetFunction(module, name.encode())))

    def launch(self, function: int, grid: tuple[int, int, int], arguments: bytes, stream: int) -> None:
        """Run a kernel with its one structure, which CUDA copies before this returns."""
        structure = ctypes.create_string_buffer(arguments, len(arguments))
        parameters = (ctypes.c_void_p * 1)(ctypes.addressof(structure))
        _check(
            "cuLaunchKernel",
            driver.cuLaunchKernel(function, *grid, *BLOCK, 0, stream, ctypes.addressof(parameters), 0),
        )

    def begin_capture(self, stream: int) -> None:
        """Record instead of run. Thread-local: other threads may allocate meanwhile."""
        _check("cuStreamBeginCapture", driver.cuStreamBeginCapture(stream, _THREAD_LOCAL))

    def end_capture(self, stream: int) -> int:
        """Instantiate what was recorded."""
        status, graph = driver.cuStreamEndCapture(stream)
        if status != driver.CUresult.CUDA_SUCCESS or not int(graph):
            return 0
        try:
            nodes = _check("cuGraphGetNodes", driver.cuGraphGetNodes(graph))[1]
            return int(_check("cuGraphInstantiate", driver.cuGraphInstantiate(graph, 0))) if nodes else 0
        finally:
            _check("cuGraphDestroy", driver.cuGraphDestroy(graph))

    def launch_graph(self, graph: int, stream: int) -> None:
        """Replay."""
        _check("cuGraphLaunch", driver.cuGraphLaunch(graph, stream))

    def destroy_graph(self, graph: int) -> None:
        """Give a graph back."""
        _check("cuGraphExecDestroy", driver.cuGraphExecDestroy(graph))


def _check(operation: str, answer: tuple[Any, ...]) -> Any:
    """Every driver function returns its status first; one value, several, or none follow."""
    status, *values = answer
    if status != driver.CUresult.CUDA_SUCCESS:
        raise cuda_error(operation, status.name)
    return values[0] if len(values) == 1 else tuple(values)
