"""Memory of one lane: device and page-locked buffers by role that only grow, so that frames allocate nothing."""

import contextlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.errors import BackendError
from segpipe.runtime.cuda.device import Device


class Buffers:
    """Buffers by role. The context must be current. `reserve` may move them: addresses hold until the next growth."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._memory: dict[str, tuple[int, int]] = {}
        self._pinned: dict[str, NDArray[Any]] = {}

    def reserve(self, device_bytes: dict[str, int], pinned_bytes: dict[str, int]) -> bool:
        """Have at least these sizes; True when a buffer moved."""
        small = [role for role, size in device_bytes.items() if self._memory.get(role, (0, 0))[1] < size]
        short = [
            role for role, size in pinned_bytes.items() if role not in self._pinned or self._pinned[role].size < size
        ]
        for role in small:
            self._drop(role)
            self._memory[role] = (self._device.allocate(device_bytes[role]), device_bytes[role])
        for role in short:
            self._drop_pinned(role)
            self._pinned[role] = self._device.allocate_pinned(pinned_bytes[role])
        return bool(small or short)

    def address(self, role: str) -> int:
        """Device address; 0 for a role that was never reserved."""
        return self._memory.get(role, (0, 0))[0]

    def pinned(self, role: str, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """A view of a page-locked buffer."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self._pinned[role][:size].view(dtype).reshape(shape)

    @property
    def size_bytes(self) -> int:
        """Device memory held."""
        return sum(size for _, size in self._memory.values())

    def close(self) -> None:
        """Free all. A lost device frees its memory by itself, so its refusals are not told."""
        for role in list(self._memory):
            with contextlib.suppress(BackendError):
                self._drop(role)
        for role in list(self._pinned):
            with contextlib.suppress(BackendError):
                self._drop_pinned(role)

    def _drop(self, role: str) -> None:
        if role in self._memory:
            self._device.free(self._memory.pop(role)[0])

    def _drop_pinned(self, role: str) -> None:
        if role in self._pinned:
            self._device.free_pinned(self._pinned.pop(role))
