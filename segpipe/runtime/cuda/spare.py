"""Spare: device memory of results that nobody holds any more, kept for the next results.

A result may be collected at any moment, also while this thread captures a graph: freeing memory would break the
capture. So what comes back is noted, and freed when memory is next taken. It is used again only where it is known that
nobody still reads it: freeing waits for everything that runs on the GPU, using it again does not.
"""

import contextlib
import threading
from dataclasses import dataclass, field

from segpipe.errors import BackendError
from segpipe.runtime.cuda.device import LEGACY_STREAM, Device, OutOfMemoryError

_KEPT = 16  # blocks that wait for a result of their size


@dataclass
class Block:
    """Device memory of one result."""

    pointer: int
    size_bytes: int
    readers: set[int | None] = field(default_factory=set)
    """Streams on which others read it; None for one that is not known."""

    @property
    def is_traced(self) -> bool:
        """Whether it is known what to wait for. A stream of somebody's may be gone; only the default one never is."""
        return self.readers <= {LEGACY_STREAM}


class Spare:
    """Blocks of one backend. `take` and `close` need the device's context; `give_back` comes from any thread."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._idle: list[Block] = []
        self._closed = False
        self._lock = threading.RLock()  # a collection inside of it may give back, too

    def take(self, size_bytes: int, stream: int) -> Block:
        """Memory whose earlier readers come before what is put on the stream from now on."""
        with self._lock:
            self._free([block for block in self._idle if not block.is_traced])
            found = next((block for block in self._idle if block.size_bytes == size_bytes), None)
            if found is None:
                return self._allocated(size_bytes)
            self._idle.remove(found)
        if found.readers:
            self._device.wait_for(stream, LEGACY_STREAM)
        return Block(found.pointer, size_bytes)

    def give_back(self, block: Block) -> None:
        """Nobody holds this block any more. Calls the driver only when the backend is closed."""
        with self._lock:
            if not self._closed:
                self._idle.append(block)
                return
        device = self._device
        with contextlib.suppress(BackendError), device.current(), device.relaxed():  # a lost device has forgotten it
            device.free(block.pointer)

    def close(self) -> None:
        """Free what is idle; what is still held is freed when it comes back."""
        with self._lock:
            self._closed = True
            self._free(list(self._idle))

    def _allocated(self, size_bytes: int) -> Block:
        self._free(self._idle[:-_KEPT])
        try:
            return Block(self._device.allocate(size_bytes), size_bytes)
        except OutOfMemoryError:
            self._free(list(self._idle))
            return Block(self._device.allocate(size_bytes), size_bytes)

    def _free(self, blocks: list[Block]) -> None:
        for block in blocks:
            self._idle.remove(block)
            with contextlib.suppress(BackendError):
                self._device.free(block.pointer)
