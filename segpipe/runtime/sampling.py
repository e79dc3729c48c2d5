"""Which rows and columns of a frame a resize reads, and the bands of rows that can be resized by themselves.

A bilinear resize that shrinks four times or more reads two rows of four. Leaving out an even number of rows for each
row of the answer, the same for each, moves where the answer's rows lie by whole rows: the weights stay the same, and so
do the numbers, to the last bit. In the same way a band with the scale of the whole is resized as the whole would be.
Of columns it takes more to pay: to gather pixels costs as much as to compute with them.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_BAND_VALUES = 1 << 19  # numbers of a frame worked on together: fewer cost more calls, more leave the caches
RESIZED_TOGETHER = 4  # channels that OpenCV takes at most
_NOT_IPP = 2  # channels that IPP refuses
_LEAST_SIDE = 8  # IPP leaves very small frames to OpenCV
_WORTH_TAKING = 0.3  # share of the columns; to gather more costs what it saves
_REMAPPED = 1 << 15  # sides that OpenCV's maps of 16 bits can name
_LEFT = 2  # times that what is left is larger than the answer: neighbours of two of its rows must not be the same

_WHOLE = np.empty(0, np.uint16)  # a map's fractions of pixels: none

Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Bands:
    """A resize in equal bands. None where all rows or columns are kept."""

    count: int
    rows_in: int
    """Kept source rows of a band."""
    rows_out: int
    rows: Indices | None = None
    columns: NDArray[np.int16] | None = None
    """For each pixel that a band keeps, column and row among the band's kept rows."""

    def source(self, frame: NDArray[Any], band: int) -> NDArray[Any]:
        """The pixels that this band reads."""
        part = slice(band * self.rows_in, (band + 1) * self.rows_in)
        pixels = frame[part] if self.rows is None else frame.take(self.rows[part], 0)
        if self.columns is None:
            return pixels
        taken = cv2.remap(pixels, self.columns, _WHOLE, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
        return taken.reshape(*self.columns.shape[:2], -1)

    def target(self, band: int) -> slice:
        """The rows that it gives."""
        return slice(band * self.rows_out, (band + 1) * self.rows_out)


@lru_cache(maxsize=32)
def bands_of(source: tuple[int, int], resized: tuple[int, int], channels: int) -> Bands:
    """How to resize frames of this size."""
    whole = Bands(1, source[0], resized[0])
    if source != resized and not is_exact(source, resized, channels):
        return whole
    rows, columns = (_kept(*sides) for sides in zip(source, resized, strict=True))
    if columns is not None and (columns.size > _WORTH_TAKING * source[1] or max(source) >= _REMAPPED):
        columns = None
    height = source[0] if rows is None else rows.size
    width = source[1] if columns is None else columns.size
    count = _count(height, resized[0], height * width * channels // _BAND_VALUES)
    return Bands(count, height // count, resized[0] // count, rows, _map(height // count, columns))


def is_exact(source: tuple[int, int], resized: tuple[int, int], channels: int) -> bool:
    """Whether OpenCV gives this to IPP, whose weights are exact: its own are rounded by where a pixel lies."""
    return cv2.ipp.useIPP() and channels % RESIZED_TOGETHER != _NOT_IPP and min(*source, *resized) >= _LEAST_SIDE


def taps(source: int, resized: int) -> tuple[Indices, NDArray[np.float32]]:
    """For each row of the answer the first of its two neighbours, and the weight of the second, as IPP computes it."""
    position = (np.arange(resized) + 0.5) * (source / resized) - 0.5
    first = np.floor(position).astype(np.intp)
    return first, (position - first).astype(np.float32)


def _map(height: int, columns: Indices | None) -> NDArray[np.int16] | None:
    return (
        None
        if columns is None
        else np.stack(np.broadcast_arrays(columns, np.arange(height)[:, None]), 2, dtype=np.int16)
    )


def _kept(source: int, resized: int) -> Indices | None:
    """The rows (or columns) that are kept; None when leaving some out would be no gain or change a weight."""
    left_out = 2 * int((source / resized - _LEFT) // 2)
    if left_out <= 0:
        return None
    first, weight = taps(source, resized)
    at, same = taps(source - left_out * resized, resized)
    if not (np.array_equal(weight, same) and np.array_equal(first - at, np.arange(resized) * left_out + left_out // 2)):
        return None
    indices = np.zeros(source - left_out * resized, np.intp)
    indices[at], indices[at + 1] = first, first + 1
    return indices


def _count(height: int, resized: int, wanted: int) -> int:
    """The number of bands, about `wanted`, whose weights are those of the whole."""
    if height < resized:
        return 1
    most = math.gcd(height, resized)
    for count in range(min(max(wanted, 1), most), 1, -1):
        if most % count == 0 and _same_in_bands(height, resized, count):
            return count
    return 1


def _same_in_bands(height: int, resized: int, count: int) -> bool:
    whole, weights = taps(height, resized)
    first, weight = taps(height // count, resized // count)
    starts = np.arange(count)[:, None] * (height // count)
    return np.array_equal(whole, (starts + first).ravel()) and np.array_equal(weights, np.tile(weight, count))
