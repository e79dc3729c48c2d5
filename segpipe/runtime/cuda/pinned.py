"""Page-locked frames of the caller's: filled in place, they are uploaded without a copy to staging memory."""

import contextlib
import threading
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.errors import BackendError
from segpipe.runtime.cuda.device import Device


class _Owner:
    """What every view of a frame keeps alive; numpy would look through an array of its own."""

    def __init__(self, memory: NDArray[Any], shape: tuple[int, ...], dtype: str) -> None:
        self.__array_interface__ = {
            "shape": shape,
            "typestr": np.dtype(dtype).str,
            "data": (memory.ctypes.data, False),
            "version": 3,
        }


class PinnedFrames:
    """Frames of one backend. Their memory goes back when the last view of it is dropped, at any moment."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._sizes: dict[int, int] = {}
        self._dropped: list[NDArray[Any]] = []
        self._closed = False
        self._lock = threading.RLock()  # a collection inside of it may drop a frame, too

    def make(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """A frame with any content. The device's context must be current."""
        self._free()
        memory = self._device.allocate_pinned(int(np.prod(shape)) * np.dtype(dtype).itemsize)
        owner = _Owner(memory, shape, dtype)
        self._sizes[memory.ctypes.data] = memory.nbytes
        weakref.finalize(owner, self._drop, memory).atexit = False  # then the process's memory goes anyway
        return np.asarray(owner)

    def address_of(self, frame: Any) -> int:
        """Where a whole frame of ours lies; 0 for any other."""
        if not self._sizes or not isinstance(frame, np.ndarray) or not frame.flags.c_contiguous:
            return 0
        address: int = frame.__array_interface__["data"][0]
        return address if self._sizes.get(address) == frame.nbytes else 0

    def close(self) -> None:
        """Free what was dropped; what is still held is freed when it is dropped."""
        with self._lock:
            self._closed = True
        self._free()

    def _drop(self, memory: NDArray[Any]) -> None:
        """Calls the driver only when the backend is closed: it may be in the midst of a capture."""
        with self._lock:
            self._sizes.pop(memory.ctypes.data, None)
            self._dropped.append(memory)
            closed = self._closed
        if closed:
            with contextlib.suppress(BackendError), self._device.current(), self._device.relaxed():
                self._free()

    def _free(self) -> None:
        with self._lock:
            while self._dropped:
                with contextlib.suppress(BackendError):
                    self._device.free_pinned(self._dropped.pop())
