"""Taps: for every row and column of a target, which two of the source it blends. The contract's geometry as tables."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.contract.schema import Placement
from segpipe.runtime.geometry import Axis, axes, frame_axes

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
    rows, columns = frame_axes(placement)
    return Tables(_on_canvas(_taps(rows), placement, 0), _on_canvas(_taps(columns), placement, 1))


def mask_tables(placement: Placement, height: int, width: int) -> Tables:
    """A mask of the source size from scores of this size."""
    rows, columns = axes(placement, height, width)
    return Tables(_taps(rows), _taps(columns))


def _on_canvas(inner: Taps, placement: Placement, axis: int) -> Taps:
    taps = np.zeros(placement.canvas[axis], TAP)
    taps["first"] = -1
    taps[placement.offset[axis] : placement.offset[axis] + inner.size] = inner
    return taps


def _taps(axis: Axis) -> Taps:
    """A neighbour without weight is none: what lies there must not make a cell look mixed."""
    taps = np.zeros(axis.first.size, TAP)
    taps["first"], taps["nearest"] = axis.first, axis.nearest
    taps["weight"] = np.where(axis.first == axis.second, 0, axis.weight)
    taps["second"] = np.where(taps["weight"] > 0, axis.second, axis.first)
    return taps
