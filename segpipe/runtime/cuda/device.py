"""What the runtime asks of a GPU: the Device protocol both providers implement, and how CUDA's failures are told."""

from contextlib import AbstractContextManager
from typing import Any, Protocol

from numpy.typing import NDArray

from segpipe.errors import BackendError

LEGACY_STREAM = 1
"""CUDA's handle of the default stream; the one a caller uses who says nothing."""

_LOST = (
    "ILLEGAL_ADDRESS", "DEVICE_UNAVAILABLE", "ECC_UNCORRECTABLE", "HARDWARE_STACK_ERROR", "LAUNCH_FAILED",
    "LAUNCH_TIMEOUT", "MISALIGNED_ADDRESS", "ILLEGAL_INSTRUCTION", "CONTEXT_IS_DESTROYED", "ASSERT",
)  # fmt: skip


class Device(Protocol):
    """One GPU. Handles and pointers are plain integers. Everything but `current` needs its context to be current.

    The primary context is retained once a process and never let go: arrays may outlive every backend.
    """

    name: str
    provider: str
    index: int
    dlpack_type: int
    """What DLPack calls this kind of device: 2 for CUDA."""
    capability: tuple[int, int]

    def current(self) -> AbstractContextManager[None]:
        """Make the GPU's primary context current on this thread, and put back what was there."""
        ...

    def allocate(self, size_bytes: int) -> int: ...
    def free(self, pointer: int) -> None: ...
    def relaxed(self) -> AbstractContextManager[None]:
        """Memory may be given back although somebody on this thread captures a graph."""
        ...

    def allocate_pinned(self, size_bytes: int) -> NDArray[Any]:
        """Page-locked host memory as uint8; give it back with `free_pinned`."""
        ...

    def free_pinned(self, memory: NDArray[Any]) -> None: ...
    def free_memory_bytes(self) -> int: ...

    def upload(self, to: int, memory: NDArray[Any], stream: int) -> None: ...
    def download(self, memory: NDArray[Any], source: int, stream: int) -> None: ...
    def copy(self, to: int, source: int, size_bytes: int, stream: int) -> None: ...

    def create_stream(self) -> int:
        """A stream that does not wait for the default one."""
        ...

    def destroy_stream(self, stream: int) -> None: ...
    def synchronize(self, stream: int) -> None: ...
    def wait_for(self, stream: int, other: int) -> None:
        """Let `stream` wait for all that was put on `other`, a stream of anybody's, until now."""
        ...

    def mark(self, stream: int) -> int:
        """The moment at which the stream gets here; give it back with `drop_mark`."""
        ...

    def milliseconds(self, first: int, second: int) -> float:
        """Between two marks that a stream has passed."""
        ...

    def drop_mark(self, mark: int) -> None: ...

    def load_module(self, image: bytes) -> int: ...
    def unload_module(self, module: int) -> None: ...
    def function(self, module: int, name: str) -> int: ...
    def launch(self, function: int, grid: tuple[int, int, int], arguments: bytes, stream: int) -> None:
        """Run a kernel that takes one structure, in blocks of BLOCK threads."""
        ...

    def begin_capture(self, stream: int) -> None: ...
    def end_capture(self, stream: int) -> int:
        """The executable graph of what was captured; 0 when the capture was broken or is empty."""
        ...

    def launch_graph(self, graph: int, stream: int) -> None: ...
    def destroy_graph(self, graph: int) -> None: ...


BLOCK = (32, 8, 1)


class OutOfMemoryError(BackendError):
    """The GPU's memory is used up; what was there before is unharmed."""


class DeviceLostError(BackendError):
    """The GPU's context is broken; nothing works in this process until it is opened again."""


def cuda_error(operation: str, name: str, detail: str = "") -> BackendError:
    """The fitting error for a CUDA status by its name, such as CUDA_ERROR_OUT_OF_MEMORY."""
    message = f"{operation} failed: {name}{f' ({detail})' if detail else ''}"
    if "OUT_OF_MEMORY" in name:
        return OutOfMemoryError(message, hint="close other programs on this GPU, or use smaller batches or tiles")
    if any(name.endswith(lost) for lost in _LOST):
        return DeviceLostError(message, hint="the GPU was lost: close the segmenter and restart the process")
    if name.endswith(("NO_DEVICE", "INVALID_DEVICE")):
        return BackendError(
            message, hint="`segpipe doctor` shows which GPUs are there; set device or CUDA_VISIBLE_DEVICES"
        )
    return BackendError(message, hint="`segpipe doctor` shows the driver and the GPU")
