"""From a network's rows to things in the frame: boxes moved, masks sampled inside their boxes alone.

A mask's crop is as large as its box: full frames for each of a hundred things never exist. Where a few cells are a
whole number of pixels, those around a box are resized: four times as fast as a warp, and the same places are sampled.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe.contract.schema import Placement
from segpipe.errors import InputError
from segpipe.id_maps import Crop

LONGEST_SIDE = 32000
"""Of a frame: OpenCV's warps count pixels in 16 bits."""

_WORTH, _ALWAYS = 3, 4096
"""Resizing is worth it for so many times the pixels of a box, and so many more."""

_Masks = Sequence[NDArray[Any]]


def on_frame(boxes: NDArray[Any], placement: Placement) -> NDArray[np.float32]:
    """Nx4 boxes in pixels of the network's canvas to the source frame's, cut at its edges; one whose edges are
    exchanged is empty."""
    (height, width), (tall, wide), (top, left) = placement.source, placement.resized, placement.offset
    scale = np.array([width / wide, height / tall] * 2, np.float32)
    with np.errstate(over="ignore"):  # a box as wide as numbers go is cut all the same
        moved = (boxes.astype(np.float32) - np.array([left, top] * 2, np.float32)) * scale
    moved = moved.clip(0, np.array([width, height] * 2, np.float32))
    moved[:, 2:] = np.maximum(moved[:, :2], moved[:, 2:])
    return moved.astype(np.float32)


def require_side(placement: Placement) -> None:
    """Refuse frames that are too long or too wide to paste into."""
    if max(placement.source) > LONGEST_SIDE:
        height, width = placement.source
        raise InputError(
            f"the frame is {height}x{width}, things are found in frames of up to {LONGEST_SIDE} pixels a side",
            hint="cut it up",
        )


def pasted_canvases(masks: _Masks, boxes: NDArray[np.float32], placement: Placement) -> tuple[Crop, ...]:
    """Masks hxw over the network's canvas, each inside its box of the source frame: bilinear, half-pixel centres."""
    if not len(boxes):
        return ()
    grids, lines = _grids(placement, masks[0].shape), []
    for axis in (0, 1):  # height, width
        cells = masks[0].shape[axis] / placement.canvas[axis]
        step = placement.resized[axis] / placement.source[axis] * cells
        lines.append((step, 0.5 * step + placement.offset[axis] * cells - 0.5))
    both, crops = (lines[0], lines[1]), []
    for logits, touched in zip(masks, _touched(boxes, placement.source), strict=True):
        crop = None if grids is None else _resized(logits, touched, grids)
        crops.append(_sampled(logits, touched, placement.source, both) if crop is None else crop)
    return tuple(crops)


def pasted_boxes(masks: _Masks, boxes: NDArray[np.float32], placement: Placement) -> tuple[Crop, ...]:
    """Masks hxw, each over its box itself."""
    crops = []
    for logits, box, touched in zip(masks, boxes.tolist(), _touched(boxes, placement.source), strict=True):
        lines = []
        for axis in (0, 1):
            step = logits.shape[axis] / max(box[3 - axis] - box[1 - axis], 1e-6)
            lines.append((step, (0.5 - box[1 - axis]) * step - 0.5))
        crops.append(_sampled(logits, touched, placement.source, (lines[0], lines[1])))
    return tuple(crops)


@dataclass(frozen=True)
class _Grid:
    """Of an axis: so many cells are so many pixels, and the frame begins so many pixels into the cells."""

    cells: int
    pixels: int
    shift: int
    length: int
    """Of the axis, in cells."""

    def around(self, start: int, end: int) -> tuple[slice, int, slice]:
        """The whole periods of cells that these pixels are sampled from, how many pixels they make, and where among
        them these are."""
        first, last = ((edge + self.shift) * self.cells // self.pixels for edge in (start, end))
        low = max(first - 1, 0) // self.cells * self.cells
        high = min(-(-(last + 2) // self.cells) * self.cells, self.length)
        begun = low // self.cells * self.pixels - self.shift
        return slice(low, high), (high - low) // self.cells * self.pixels, slice(start - begun, end - begun)


@lru_cache(maxsize=64)
def _grids(placement: Placement, shape: tuple[int, int]) -> tuple[_Grid, _Grid] | None:
    """Both axes, where pixels and cells meet again and again."""
    found = []
    for axis in (0, 1):
        source, resized, offset = placement.source[axis], placement.resized[axis], placement.offset[axis]
        step = Fraction(resized * shape[axis], source * placement.canvas[axis])
        shift = Fraction(offset * source, resized)
        if shift.denominator != 1 or shape[axis] % step.numerator:
            return None
        found.append(_Grid(step.numerator, step.denominator, int(shift), shape[axis]))
    return found[0], found[1]


_Pixels = tuple[int, int, int, int]
"""Left, top, right, bottom: the first, and the one after the last."""


def _touched(boxes: NDArray[np.float32], size: tuple[int, int]) -> list[_Pixels]:
    """The pixels of the frame that each box touches."""
    starts, ends = np.maximum(np.floor(boxes[:, :2]), 0), np.minimum(np.ceil(boxes[:, 2:]), size[::-1])
    pixels: list[_Pixels] = np.hstack([starts, ends]).astype(np.int64).tolist()
    return pixels


def _resized(logits: NDArray[Any], touched: _Pixels, grids: tuple[_Grid, _Grid]) -> Crop | None:
    """Where the scores are above 0; None where the cells around a small box would make far more pixels than it has."""
    left, top, right, bottom = touched
    if left >= right or top >= bottom:
        return None
    rows, tall, down = grids[0].around(top, bottom)
    columns, wide, across = grids[1].around(left, right)
    if tall * wide > _WORTH * (right - left) * (bottom - top) + _ALWAYS:
        return None
    part = np.ascontiguousarray(logits[rows, columns], np.float32)
    values = cv2.resize(part, (wide, tall), interpolation=cv2.INTER_LINEAR)
    return Crop(values[down, across] > 0, left, top)


_Line = tuple[float, float]
"""Of an axis: cells for each pixel, and the cell of pixel 0."""


def _sampled(logits: NDArray[Any], touched: _Pixels, size: tuple[int, int], lines: tuple[_Line, _Line]) -> Crop:
    """Where the scores are above 0, at the pixels that the box touches."""
    left, top, right, bottom = touched
    if left >= right or top >= bottom:
        return Crop(np.zeros((0, 0), np.bool_), min(left, size[1]), min(top, size[0]))
    (down, first_row), (across, first_column) = lines
    rows, row = _cells(down, first_row, (top, bottom), logits.shape[0])
    columns, column = _cells(across, first_column, (left, right), logits.shape[1])
    matrix = np.array([[across, 0, column], [0, down, row]])
    part = np.ascontiguousarray(logits[rows, columns], np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    values = cv2.warpAffine(part, matrix, (right - left, bottom - top), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return Crop(values > 0, left, top)


def _cells(step: float, first: float, pixels: tuple[int, int], length: int) -> tuple[slice, float]:
    """The cells that these pixels lie between, and where the first pixel lies among them."""
    start, end = first + step * pixels[0], first + step * (pixels[1] - 1)
    low = min(max(math.floor(start) - 1, 0), length - 1)
    high = max(min(math.floor(end) + 3, length), low + 1)
    return slice(low, high), start - low
