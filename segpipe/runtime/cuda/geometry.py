"""Taps: for every row and column of a target, which two of the source it blends. The contract's geometry as tables."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.contract.schema import Placement

TAP = np.dtype([("first", "<i4"), ("second", "<i4"), ("weight", "<f4"), ("nearest", "<i4")])
"""The twin of `struct Tap` in kernels.cu. `first` is -1 where a canvas is padding."""

Taps = NDArray[Any]


@dataclass(frozen=True)
class Tables:
    """Rows and columns of one target."""

    rows: Taps
    columns: Taps


def canvas_tables(placement: Placement) -> Tables:
    """The network's canvas from a source frame."""
    return Tables(_canvas_axis(placement, 0), _canvas_axis(placement, 1))


def mask_tables(placement: Placement, height: int, width: int) -> Tables:
    """A mask of the source size from scores of this size."""
    return Tables(_mask_axis(placement, 0, height), _mask_axis(placement, 1, width))


def on_canvas(placement: Placement) -> Placement:
    """The placement of a mask that stays at the network's input size."""
    return Placement(placement.canvas, placement.canvas, placement.canvas, (0, 0))


def _canvas_axis(placement: Placement, axis: int) -> Taps:
    source, resized, offset = placement.source[axis], placement.resized[axis], placement.offset[axis]
    taps = np.zeros(placement.canvas[axis], TAP)
    taps["first"] = -1
    taps[offset : offset + resized] = _taps((np.arange(resized) + 0.5) * (source / resized), source)
    return taps


def _mask_axis(placement: Placement, axis: int, length: int) -> Taps:
    centres = np.arange(placement.source[axis]) + 0.5
    canvas = centres * (placement.resized[axis] / placement.source[axis]) + placement.offset[axis]
    return _taps(canvas * (length / placement.canvas[axis]), length)


def _taps(centres: NDArray[np.floating[Any]], length: int) -> Taps:
    """Half-pixel bilinear taps at these positions of an axis with `length` elements, clamped at its ends."""
    position = np.clip(centres - 0.5, 0, length - 1)
    taps = np.zeros(centres.size, TAP)
    taps["first"] = position.astype(np.int64)
    taps["weight"] = position - taps["first"]
    # A neighbour without weight is none: what lies there must not make a cell look mixed.
    taps["second"] = np.where(taps["weight"] > 0, np.minimum(taps["first"] + 1, length - 1), taps["first"])
    taps["nearest"] = np.clip(centres.astype(np.int64), 0, length - 1)
    return taps
