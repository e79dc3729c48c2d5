"""A Device on host memory: the real kernels compiled as C++, streams that run nothing before somebody waits for them.

A second implementation of the protocol, with which the whole GPU frame path runs and is compared on a machine without
a GPU. What a forgotten wait, a stale address or a write past the end would do on a GPU, it does here.
"""

import ctypes
import itertools
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from segpipe.errors import BackendError
from segpipe.runtime.cuda.compiling import SOURCE
from segpipe.runtime.cuda.device import BLOCK, LEGACY_STREAM, cuda_error

_GUARD = 64  # bytes behind each allocation that nobody may write
_FILL = 0xA5
Work = Callable[[], object]


@cache
def kernel_library() -> ctypes.CDLL:
    """kernels.cu as a shared library; skips the test where there is no g++."""
    return ctypes.CDLL(str(kernel_library_file()))


@cache
def kernel_library_file() -> Path:
    """The library, compiled once a process."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed, so kernels.cu cannot be compiled as C++")
    target = Path(tempfile.mkdtemp(prefix="segpipe-kernels-")) / "kernels.so"
    # Contracted as on a GPU, where the CPU can: differences are then of one rounding, not of ten.
    fused = ["-mfma", "-ffp-contract=fast"] if "fma" in _cpu_flags() else []
    shim = Path(__file__).with_name("kernel_shim.cpp")
    options = ["-O2", "-std=c++17", "-shared", "-fPIC", "-Wno-attributes", f'-DKERNELS="{SOURCE}"', *fused]
    subprocess.run([compiler, *options, str(shim), "-o", str(target)], check=True, capture_output=True, text=True)
    return target


def _cpu_flags() -> str:
    cpu = Path("/proc/cpuinfo")
    return cpu.read_text() if cpu.is_file() else ""


class HostDevice:
    """Host memory as a GPU's. `limit_bytes` makes it run out of memory; `lost` makes everything fail."""

    name = "host"
    provider = "host"
    index = 0
    dlpack_type = 1  # kDLCPU
    capability = (0, 0)

    def __init__(self, limit_bytes: int = 1 << 30) -> None:
        self.limit_bytes = limit_bytes
        self.lost = False
        self.allocations = 0
        self.graph_launches = 0
        self._memory: dict[int, tuple[NDArray[np.uint8], int]] = {}
        self._pinned: dict[int, NDArray[np.uint8]] = {}
        self._streams: dict[int, list[Work]] = {LEGACY_STREAM: []}
        self._captures: dict[int, list[Work]] = {}
        self._graphs: dict[int, list[Work]] = {}
        self._marks: dict[int, int] = {}
        self._functions: dict[int, str] = {}
        self._handles = itertools.count(100)
        self._lock = threading.RLock()
        self._local = threading.local()

    @contextmanager
    def current(self) -> Iterator[None]:
        """The context is this thread's for a while."""
        self._local.depth = getattr(self._local, "depth", 0) + 1
        try:
            yield
        finally:
            self._local.depth -= 1

    @property
    def held(self) -> int:
        """Allocations, streams, graphs and marks that were not given back."""
        things = len(self._memory) + len(self._pinned) + len(self._graphs) + len(self._marks)
        return things + len(self._streams) - 1

    def allocate(self, size_bytes: int) -> int:
        """Memory full of rubbish."""
        self._require("cuMemAlloc")
        with self._lock:
            if sum(size for _, size in self._memory.values()) + size_bytes > self.limit_bytes:
                raise cuda_error(f"allocating {size_bytes} bytes", "CUDA_ERROR_OUT_OF_MEMORY")
            self.allocations += 1
            raw = np.full(size_bytes + _GUARD + 256, _FILL, np.uint8)
            start = -raw.ctypes.data % 256
            pointer = raw.ctypes.data + start
            self._memory[pointer] = (raw[start:], size_bytes)
            return pointer

    def free(self, pointer: int) -> None:
        """Give memory back; a write past its end is told."""
        self._require("cuMemFree")
        memory, size = self._memory.pop(pointer)
        assert (memory[size : size + _GUARD] == _FILL).all(), "somebody wrote past the end of a buffer"

    @contextmanager
    def relaxed(self) -> Iterator[None]:
        """No difference here."""
        yield

    def allocate_pinned(self, size_bytes: int) -> NDArray[Any]:
        """Just memory."""
        self._require("cuMemHostAlloc")
        memory = np.full(size_bytes, _FILL, np.uint8)
        self.allocations += 1
        self._pinned[memory.ctypes.data] = memory
        return memory

    def free_pinned(self, memory: NDArray[Any]) -> None:
        """Give it back."""
        self._require("cuMemFreeHost")
        del self._pinned[memory.ctypes.data]

    def free_memory_bytes(self) -> int:
        """What is left."""
        return self.limit_bytes - sum(size for _, size in self._memory.values())

    def upload(self, to: int, memory: NDArray[Any], stream: int) -> None:
        """Later."""
        self.put(stream, lambda: ctypes.memmove(to, memory.ctypes.data, memory.nbytes))

    def download(self, memory: NDArray[Any], source: int, stream: int) -> None:
        """Later."""
        self.put(stream, lambda: ctypes.memmove(memory.ctypes.data, source, memory.nbytes))

    def copy(self, to: int, source: int, size_bytes: int, stream: int) -> None:
        """Later."""
        self.put(stream, lambda: ctypes.memmove(to, source, size_bytes))

    def create_stream(self) -> int:
        """An empty list of work."""
        self._require("cuStreamCreate")
        stream = next(self._handles)
        self._streams[stream] = []
        return stream

    def destroy_stream(self, stream: int) -> None:
        """Forget it."""
        self._require("cuStreamDestroy")
        del self._streams[stream]

    def synchronize(self, stream: int) -> None:
        """Now the work is done."""
        self._require("cuStreamSynchronize")
        if stream in self._captures:
            raise cuda_error("cuStreamSynchronize", "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")
        self._drain(stream)

    def wait_for(self, stream: int, other: int) -> None:
        """The other stream's work comes first."""
        self.put(stream, lambda: self._drain(other))

    def mark(self, stream: int) -> int:
        """The time when the stream gets here."""
        mark = next(self._handles)
        self._marks[mark] = 0

        def pass_by() -> None:
            if mark in self._marks:  # dropped ones are nobody's concern, as with CUDA's events
                self._marks[mark] = time.perf_counter_ns()

        self.put(stream, pass_by)
        return mark

    def milliseconds(self, first: int, second: int) -> float:
        """Of streams that got there."""
        assert self._marks[first], "nobody waited for the stream"
        return (self._marks[second] - self._marks[first]) / 1e6

    def drop_mark(self, mark: int) -> None:
        """Forget it."""
        self._require("cuEventDestroy")
        del self._marks[mark]

    def load_module(self, image: bytes) -> int:
        """The library is the module."""
        assert image
        return next(self._handles)

    def unload_module(self, module: int) -> None:
        """Nothing to do, for a device that is there."""
        self._require("cuModuleUnload")

    def function(self, module: int, name: str) -> int:
        """A kernel by its name."""
        function = next(self._handles)
        self._functions[function] = name
        return function

    def launch(self, function: int, grid: tuple[int, int, int], arguments: bytes, stream: int) -> None:
        """Later, with the arguments as they are now."""
        name, library = self._functions[function], kernel_library()
        kind = name.partition("_")[0]
        run = getattr(library, {"pre": "run_pre", "pack": "run_pack", "blend": "run_blend"}.get(kind, "run_scores"))
        kernel = ctypes.cast(getattr(library, name), ctypes.c_void_p)
        dimensions = (ctypes.c_uint * 3)(*grid), (ctypes.c_uint * 3)(*BLOCK)
        self.put(stream, lambda: run(kernel, *dimensions, ctypes.create_string_buffer(arguments, len(arguments))))

    def begin_capture(self, stream: int) -> None:
        """Record."""
        self._captures[stream] = []

    def end_capture(self, stream: int) -> int:
        """A graph, unless nothing was recorded."""
        recorded = self._captures.pop(stream)
        if not recorded:
            return 0
        graph = next(self._handles)
        self._graphs[graph] = recorded
        return graph

    def launch_graph(self, graph: int, stream: int) -> None:
        """Replay."""
        self.graph_launches += 1
        for work in self._graphs[graph]:
            self.put(stream, work)

    def destroy_graph(self, graph: int) -> None:
        """Forget it."""
        self._require("cuGraphExecDestroy")
        del self._graphs[graph]

    def put(self, stream: int, work: Work) -> None:
        """Put work on a stream, or record it."""
        self._require("enqueueing")
        self._captures.get(stream, self._streams[stream]).append(work)

    def is_capturing(self, stream: int) -> bool:
        """Whether work is recorded."""
        return stream in self._captures

    def _drain(self, stream: int) -> None:
        work, self._streams[stream] = self._streams[stream], []
        for step in work:
            step()

    def _require(self, operation: str) -> None:
        if not getattr(self._local, "depth", 0):
            raise BackendError(f"{operation} failed: CUDA_ERROR_INVALID_CONTEXT (not current on this thread)")
        if self.lost:
            raise cuda_error(operation, "CUDA_ERROR_ILLEGAL_ADDRESS")
