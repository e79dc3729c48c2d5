"""Where each pixel of the answer lies in the network's scores, one axis at a time."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.contract.schema import Placement

_PART_PIXELS = 8  # of a cell's part at the least: smaller ones cost more than the pixels that they leave out
_MOST_PARTS = 4


@dataclass(frozen=True)
class Axis:
    """For each pixel along one axis: its two neighbours in the scores, and the weight of the second.

    Pixels between two neighbouring scores form a cell. Cell k ends at score k; those before score 0 and after the last
    one have the same score on both sides.
    """

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    weight: NDArray[np.float32]
    nearest: NDArray[np.intp]
    starts: NDArray[np.intp]
    """First pixel of each of the cells, one more than there are scores, and the number of pixels at the end."""

    @cached_property
    def meets_scores(self) -> bool:
        """Whether each pixel lies where a score is."""
        return not self.weight.any()

    @cached_property
    def parts(self) -> "CellParts":
        """The cells, cut where they are long."""
        pixels, count = np.diff(self.starts), 1
        while count < _MOST_PARTS and pixels.max() >= 2 * count * _PART_PIXELS:
            count *= 2
        cells = (np.searchsorted(self.starts, np.arange(self.weight.size), "right") - 1).clip(0, pixels.size - 1)
        part = np.minimum((self.weight * count).astype(np.intp), count - 1)
        return CellParts(count, cells * count + part, self.weight, pixels.size)


@dataclass(frozen=True)
class CellParts:
    """Each cell of an axis cut into `count` equal parts."""

    count: int
    of_pixel: NDArray[np.intp]
    """The part that each pixel lies in."""
    weight: NDArray[np.float32]
    """Of each pixel, in its cell."""
    cells: int

    @cached_property
    def starts(self) -> NDArray[np.intp]:
        """First pixel of each part, and the number of pixels at the end."""
        return np.searchsorted(self.of_pixel, np.arange(self.cells * self.count + 1))

    @cached_property
    def filled(self) -> NDArray[np.bool_]:
        """Which parts hold pixels, cells x parts."""
        return (np.diff(self.starts) > 0).reshape(self.cells, self.count)

    @cached_property
    def pixels(self) -> int:
        """Pixels along the longest part."""
        return int(np.diff(self.starts).max())

    @cached_property
    def edges(self) -> NDArray[np.float32]:
        """Weights at the ends of the parts of a cell."""
        return np.arange(self.count + 1, dtype=np.float32) / np.float32(self.count)

    def pixels_in(self, parts: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """The pixels of each part, and their weights; short parts repeat their last pixel."""
        at = np.minimum(self.starts[parts] + np.arange(self.pixels)[:, None], self.starts[parts + 1] - 1)
        return at, self.weight[at]


@lru_cache(maxsize=32)
def axes(placement: Placement, height: int, width: int) -> tuple[Axis, Axis]:
    """Rows and columns: source pixel centre -> resized frame -> canvas -> scores of this size. Shared: do not write."""
    return _axis(placement, 0, height), _axis(placement, 1, width)


def frame_axes(placement: Placement) -> tuple[Axis, Axis]:
    """For rows and columns of the resized frame, their neighbours in the source frame."""
    rows, columns = zip(placement.source, placement.resized, strict=True)
    return _frame_axis(*rows), _frame_axis(*columns)


def _axis(placement: Placement, axis: int, length: int) -> Axis:
    """Products before the one division: they are exact, so a pixel between two labels is where the definition says."""
    source, resized, canvas = placement.source[axis], placement.resized[axis], placement.canvas[axis]
    times_source = (np.arange(source) + 0.5) * resized + placement.offset[axis] * source
    return axis_at(times_source * length / (source * canvas), length)


def _frame_axis(source: int, resized: int) -> Axis:
    return axis_at((np.arange(resized) + 0.5) * source / resized, source)


def axis_at(in_scores: NDArray[np.floating[Any]], length: int) -> Axis:
    """An axis from increasing positions in scores of this length, where 0.5 is the centre of the first score."""
    floor = np.floor(in_scores - 0.5).astype(np.intp)
    first = floor.clip(0, length - 1)
    return Axis(
        first=first,
        second=(floor + 1).clip(0, length - 1),
        weight=(in_scores - 0.5 - floor).astype(np.float32),
        nearest=in_scores.astype(np.intp).clip(0, length - 1),
        starts=np.searchsorted(floor, np.arange(-1, length + 1)),
    )
