"""The host side of every CPU backend: numpy and OpenCV around a network that some library has opened."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segpipe.contract.schema import FrameContract, Placement
from segpipe.cores import usable_cores
from segpipe.errors import BackendError, InputError, UnfitFrameError
from segpipe.processor import device_name
from segpipe.runtime.backends.external_data import refuse_external_data
from segpipe.runtime.backends.freed_memory import give_back
from segpipe.runtime.preprocess import preprocess, tensor_shape
from segpipe.runtime.request import OpenOptions, Outputs
from segpipe.tasks import task_of

_MOST_THREADS = 4096  # libraries start as many as they are told, and would not come back from a million
_MAX_BATCH = 8  # frames in one call of the network; more make nothing faster on a CPU, and cost memory

Tensors = Mapping[str, NDArray[Any]]


class Network(Protocol):
    """A graph that a library has opened. Called from any thread."""

    contract: FrameContract
    """The one inside the graph."""
    fixed_batch: int | None
    """Frames that every call must have; None where the graph leaves it open."""

    def run(self, tensors: Tensors, wanted: Sequence[str]) -> Tensors:
        """Input tensors by name to those outputs, in memory of the caller's, or a BackendError in the library's words.

        The inputs are not read after the call.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """The library's version and settings."""
        ...


class LibraryOpener(Protocol):
    """How a library opens ONNX bytes for `calls` at once that use `threads` each, or raises BackendError."""

    def __call__(self, artifact: bytes, threads: int, calls: int) -> Network: ...


class Networks:
    """The graph opened for one call that uses every core and, once calls meet, for many that use one core each.

    From half as many calls in flight as there are cores on, one thread a call gives more frames a second.
    """

    def __init__(self, opener: LibraryOpener, artifact: bytes, threads: int) -> None:
        self.threads = threads
        self.wide = opener(artifact, threads, 1)
        self._opener, self._artifact = opener, artifact
        self._narrow = self.wide if threads == 1 else None
        self._in_flight = 0
        self._lock = threading.Lock()

    @contextmanager
    def fitting(self) -> Iterator[Network]:
        """The network for a call that begins now."""
        with self._lock:
            crowded = self._in_flight > 0 and 2 * self._in_flight >= self.threads
            if crowded and self._narrow is None:
                self._narrow = self._opener(self._artifact, 1, self.threads)
            self._in_flight += 1
        try:
            yield self._narrow or self.wide if crowded else self.wide
        finally:
            with self._lock:
                self._in_flight -= 1


class HostBackend:
    """Called from any thread. Frames that give tensors of one size run as a batch."""

    def __init__(
        self, name: str, device: str, networks: Networks, contract: FrameContract, frugal: bool = False
    ) -> None:
        self.name, self.device = name, device
        self._networks: Networks | None = networks
        self._frugal = frugal
        self._contract, self._task = contract, task_of(contract)
        self._own = threading.local()
        self._fixed_batch = networks.wide.fixed_batch

    def infer(self, frames: Sequence[NDArray[Any]], outputs: Outputs) -> list[Any]:
        """HxWxC frames to answers, in order."""
        placed = [(frame, self._contract.place(*frame.shape[:2])) for frame in frames]
        limit = self._fixed_batch or _MAX_BATCH
        answers: list[Any] = []
        with self._opened().fitting() as network:
            for _, run in groupby(placed, key=lambda pair: pair[1].canvas):
                same = list(run)
                for start in range(0, len(same), limit):
                    answers += self._batch(network, same[start : start + limit], outputs)
        return answers

    def pinned_frame(self, height: int, width: int) -> NDArray[Any]:
        """Memory as any other."""
        return np.empty((height, width, self._contract.channels), self._contract.dtype)

    def warm_up(self, frames: Sequence[NDArray[Any]], lanes: int) -> None:
        """A call as any other: threads share the network."""
        self.infer(frames, Outputs())

    def scores(self, tensor: NDArray[Any]) -> NDArray[Any]:
        """The network alone: a batch of input tensors to its raw output, the first one of several."""
        return self._run(self._opened().wide, tensor)[self._task.outputs[0]]

    def describe(self) -> dict[str, Any]:
        """What the library says, and the threads."""
        networks = self._opened()
        return {**networks.wide.describe(), "threads": networks.threads}

    def close(self) -> None:
        """Free the networks; calls under way still end well."""
        self._networks = None

    def _opened(self) -> Networks:
        if self._networks is None:
            raise BackendError("this backend is closed", hint="open the run again")
        return self._networks

    def _run(self, network: Network, tensor: NDArray[Any]) -> Tensors:
        return network.run({self._contract.input_name: tensor}, self._task.outputs)

    def _batch(
        self,
        network: Network,
        frames: Sequence[tuple[NDArray[Any], Placement]],
        outputs: Outputs,
    ) -> list[Any]:
        contract = self._contract
        tensor = self._tensor((self._fixed_batch or len(frames), *tensor_shape(contract, frames[0][1])))
        tensor[len(frames) :] = 0  # a graph of fixed batch gets blank frames to fill it
        for (frame, placement), part in zip(frames, tensor, strict=False):
            preprocess(frame, contract, placement, part)
        answered = self._run(network, tensor)
        if self._frugal:
            del tensor, part
            give_back()
        return [
            self._task.decode({name: batch[index] for name, batch in answered.items()}, target, outputs)
            for index, target in enumerate(outputs.placed(placement) for _, placement in frames)
        ]

    def _tensor(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """This thread's last tensor when it fits: fresh memory costs more than filling it."""
        last: NDArray[Any] | None = getattr(self._own, "tensor", None)
        if last is None or last.shape != shape:
            last = np.empty(shape, self._contract.input_dtype)
            self._own.tensor = None if self._frugal else last
        return last


def open_on_host(opener: LibraryOpener, artifact: bytes, contract: FrameContract, options: OpenOptions) -> HostBackend:
    """Open ONNX bytes, refusing a graph made for another contract or with weights outside these bytes."""
    _require_threads(options.threads)
    refuse_external_data(artifact)
    networks = Networks(opener, artifact, options.threads or usable_cores())
    contract.require_same(networks.wide.contract, "the run", "the ONNX model")
    return HostBackend(options.name, device_name(options.precision), networks, contract, options.frugal)


def _require_threads(threads: int) -> None:
    if not isinstance(threads, int) or not 0 <= threads <= _MOST_THREADS:
        raise InputError(
            f"threads is {threads!r}, a whole number from 0 to {_MOST_THREADS} is wanted",
            hint="leave it out, or give 0: one thread a core",
        )


def refused(tensors: Tensors, reason: str) -> UnfitFrameError:
    """The error for tensors whose shapes the network does not take."""
    message = f"the network does not take input {_shapes(tensors)}: {reason}"
    return UnfitFrameError(message, hint="export with sizes that cover this frame")


def failed(library: str, tensors: Tensors, reason: str) -> BackendError:
    """The error for everything else that goes wrong in a call."""
    message = f"{library} failed on input {_shapes(tensors)}: {reason}"
    return BackendError(message, hint="pass smaller frames or fewer at once if memory ran out")


def unloadable(library: str, reason: str) -> BackendError:
    """The error for a graph that does not open."""
    return BackendError(f"{library} cannot load the model: {reason}", hint="export it again")


def _shapes(tensors: Tensors) -> str:
    return ", ".join(f"{tensor.dtype} {tensor.shape}" for tensor in tensors.values())
