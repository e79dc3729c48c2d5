"""What the frame path asks of an engine, whoever runs it, and how frames are divided among its batches."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from segpipe.errors import UnfitFrameError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Profile:
    """A range of input shapes, batch first, that an engine takes."""

    smallest: Shape
    largest: Shape

    def takes(self, shape: Shape) -> bool:
        """Whether every side of a shape lies in the range."""
        return all(a <= side <= b for a, side, b in zip(self.smallest, shape, self.largest, strict=True))


class EngineContext(Protocol):
    """One user of an engine: it keeps one input shape at a time and serves one stream."""

    scratch_bytes: int
    """Device memory that `enqueue` needs for the shape set; contexts that take turns may share it."""

    def set_shape(self, shape: Shape, stream: int) -> Mapping[str, Shape]:
        """Prepare for inputs of this shape; the shapes of the outputs by name."""
        ...

    def is_capturable(self, stream: int) -> bool:
        """Whether `enqueue` may be recorded into a CUDA graph."""
        ...

    def enqueue(self, source: int, targets: Mapping[str, int], scratch: int, stream: int) -> None:
        """Put the network on the stream: from the input at a device address to the outputs at those of their names."""
        ...


class Engine(Protocol):
    """A loaded network with one input and the outputs of its task."""

    input_dtype: str

    @property
    def output_dtypes(self) -> Mapping[str, str]:
        """By name."""
        ...

    @property
    def profiles(self) -> Sequence[Profile]:
        """The input shapes it takes."""
        ...

    def context(self) -> EngineContext:
        """A new user of the engine."""
        ...

    def describe(self) -> dict[str, Any]: ...
    def close(self) -> None: ...


def divide(profiles: Sequence[Profile], item: Shape, frames: int) -> Iterator[tuple[int, int]]:
    """(frames, batch) for each run of the engine over inputs of `item`, a shape without its batch.

    Where no profile takes so many, a larger batch is filled to at least a half, or a smaller one goes first.
    """
    ranges = [
        (profile.smallest[0], profile.largest[0]) for profile in profiles if profile.takes((profile.smallest[0], *item))
    ]
    if not ranges:
        told = " or ".join(f"{profile.smallest} to {profile.largest}" for profile in profiles)
        raise UnfitFrameError(
            f"the engine takes inputs of {told}, this frame needs {('batch', *item)}",
            hint="segment huge frames in tiles, or build the engine for larger sizes",
        )
    while frames > 0:
        batch = _batch(ranges, frames)
        yield min(frames, batch), batch
        frames -= batch


def _batch(ranges: Sequence[tuple[int, int]], frames: int) -> int:
    if any(low <= frames <= high for low, high in ranges):
        return frames
    above = min((low for low, _ in ranges if low > frames), default=0)
    below = max((high for _, high in ranges if high < frames), default=0)
    return above if above and (not below or 2 * frames >= above) else below
