"""The Device by PyCUDA: taken when it is installed. Never `pycuda.autoinit`: the primary context is retained."""

import atexit
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import pycuda.driver as cuda
from numpy.typing import NDArray

from segpipe.runtime.cuda.device import BLOCK, cuda_error
from segpipe.runtime.cuda.driver_library import DriverLibrary

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING


class PyCudaDevice:
    """One GPU by its primary context. PyCUDA's objects are kept here, under their integer handles."""

    provider = "pycuda"
    dlpack_type = 2

    def __init__(self, index: int) -> None:
        self.index = index
        self._driver = DriverLibrary()
        _checked(cuda.init)
        self._device = _checked(cuda.Device, index)
        self.name = str(_checked(self._device.name))
        major, minor = _checked(self._device.compute_capability)
        self.capability = (int(major), int(minor))
        self._context = _checked(self._device.retain_primary_context)
        self._held: dict[int, Any] = {}  # allocations, streams, modules and functions by handle
        atexit.register(self._detach)
        self.relaxed = self._driver.relaxed
        self.wait_for = self._driver.wait_for
        self.mark = self._driver.mark
        self.milliseconds = self._driver.milliseconds
        self.drop_mark = self._driver.drop_mark
        self.begin_capture = self._driver.begin_capture
        self.end_capture = self._driver.end_capture
        self.launch_graph = self._driver.launch_graph
        self.destroy_graph = self._driver.destroy_graph

    @contextmanager
    def current(self) -> Iterator[None]:
        """Push the primary context, and pop it afterwards."""
        _checked(self._context.push)
        try:
            yield
        finally:
            _checked(cuda.Context.pop)

    def allocate(self, size_bytes: int) -> int:
        """Device memory."""
        return self._hold(_checked(cuda.mem_alloc, size_bytes))

    def free(self, pointer: int) -> None:
        """Give device memory back."""
        _checked(self._held.pop(pointer).free)

    def allocate_pinned(self, size_bytes: int) -> NDArray[Any]:
        """Page-locked host memory; freed when its last view goes."""
        memory: NDArray[Any] = _checked(cuda.pagelocked_empty, size_bytes, np.uint8)
        return memory

    def free_pinned(self, memory: NDArray[Any]) -> None:
        """Give page-locked memory back now."""
        _checked(memory.base.free)  # type: ignore[union-attr]  # PyCUDA's own allocation object

    def free_memory_bytes(self) -> int:
        """What is left of the GPU's memory."""
        return int(_checked(cuda.mem_get_info)[0])

    def upload(self, to: int, memory: NDArray[Any], stream: int) -> None:
        """Host to device."""
        _checked(cuda.memcpy_htod_async, to, memory, self._held[stream])

    def download(self, memory: NDArray[Any], source: int, stream: int) -> None:
        """Device to host."""
        _checked(cuda.memcpy_dtoh_async, memory, source, self._held[stream])

    def copy(self, to: int, source: int, size_bytes: int, stream: int) -> None:
        """Device to device."""
        _checked(cuda.memcpy_dtod_async, to, source, size_bytes, self._held[stream])

    def create_stream(self) -> int:
        """A stream of our own."""
        stream = _checked(cuda.Stream, _NON_BLOCKING)
        self._held[stream.handle] = stream
        return int(stream.handle)

    def destroy_stream(self, stream: int) -> None:
        """Give a stream back: PyCUDA destroys it with its object."""
        del self._held[stream]

    def synchronize(self, stream: int) -> None:
        """Wait until a stream is done. Failures of its kernels come to light here."""
        _checked(self._held[stream].synchronize)

    def load_module(self, image: bytes) -> int:
        """Machine code or PTX."""
        module = _checked(cuda.module_from_buffer, image)
        self._held[id(module)] = module
        return id(module)

    def unload_module(self, module: int) -> None:
        """Give a module and its functions back: PyCUDA unloads it with its last object."""
        owned = [key for key, held in self._held.items() if isinstance(held, tuple) and held[0] == module]
        for key in [*owned, module]:
            del self._held[key]

    def function(self, module: int, name: str) -> int:
        """A kernel by its name."""
        function = _checked(self._held[module].get_function, name)
        self._held[id(function)] = (module, function)
        return id(function)

    def launch(self, function: int, grid: tuple[int, int, int], arguments: bytes, stream: int) -> None:
        """Run a kernel with its one structure, which CUDA copies before this returns.

        PyCUDA's public calls set the block's shape by a legacy function of the driver first, for nothing.
        """
        _checked(self._held[function][1]._launch_kernel, grid, BLOCK, arguments, 0, self._held[stream])

    def _hold(self, allocation: Any) -> int:
        self._held[int(allocation)] = allocation
        return int(allocation)

    def _detach(self) -> None:
        """At exit: PyCUDA gives its objects back when Python destroys them, and warns when the context has gone."""
        self._held.clear()
        _checked(self._context.detach)

    relaxed: Callable[[], AbstractContextManager[None]]
    wait_for: Callable[[int, int], None]
    mark: Callable[[int], int]
    milliseconds: Callable[[int, int], float]
    drop_mark: Callable[[int], None]
    begin_capture: Callable[[int], None]
    end_capture: Callable[[int], int]
    launch_graph: Callable[[int, int], None]
    destroy_graph: Callable[[int], None]


def _checked(function: Callable[..., Any], *arguments: Any) -> Any:
    """PyCUDA raises 'routine failed: text'; give the error its name back."""
    try:
        return function(*arguments)
    except cuda.Error as error:
        routine, _, text = str(error).partition(" failed: ")
        name = DriverLibrary().error_name(text.partition(" - ")[0])
        raise cuda_error(routine, name) from error
