"""Labelled frames through the deployed runtime, counted as its task counts. Knows no data set and no torch."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from numpy.typing import NDArray

from segpipe.contract.schema import FrameContract
from segpipe.tasks import task_of

Sample = tuple[NDArray[Any], NDArray[Any]]
"""Frame HxWxC and labels HxW."""


class Streaming(Protocol):
    """A segmenter, whatever its task."""

    @property
    def contract(self) -> FrameContract: ...
    def stream(self, frames: Iterable[Any], /) -> Iterator[Any]: ...


def evaluate_frames(segmenter: Streaming, samples: Iterable[Sample], tick: Callable[[int], None]) -> Any:
    """Segment every sample at its own size and count as its task counts: `DatasetFigures` of masks, `InstanceFigures`
    of things. `tick` is called with each finished frame."""
    meter = task_of(segmenter.contract).meter()
    waiting: deque[NDArray[Any]] = deque()
    for mask in segmenter.stream(_frames(samples, waiting)):
        meter.add(waiting.popleft(), mask)
        tick(1)
    return meter.figures()


def _frames(samples: Iterable[Sample], waiting: deque[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """Labels wait for their frame's mask."""
    for frame, labels in samples:
        waiting.append(labels)
        yield frame
