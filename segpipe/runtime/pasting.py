"""From a network's rows to things in the frame: boxes moved, masks sampled inside their boxes alone.

A mask's crop is as large as its box: full frames for each of a hundred things never exist.
"""

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe.contract.schema import Placement
from segpipe.errors import InputError
from segpipe.id_maps import Crop

LONGEST_SIDE = 32000
"""Of a frame: OpenCV's warps count pixels in 16 bits."""

_Box = NDArray[Any]


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


def pasted_canvas(logits: NDArray[Any], box: _Box, placement: Placement) -> Crop:
    """A mask hxw over the network's canvas, inside a box of the source frame: bilinear, half-pixel centres."""
    lines = []
    for axis in (0, 1):  # height, width
        cells = logits.shape[axis] / placement.canvas[axis]
        step = placement.resized[axis] / placement.source[axis] * cells
        lines.append((step, 0.5 * step + placement.offset[axis] * cells - 0.5))
    return _sampled(logits, box, placement.source, (lines[0], lines[1]))


def pasted_box(logits: NDArray[Any], box: _Box, placement: Placement) -> Crop:
    """A mask hxw over the box itself."""
    lines = []
    for axis in (0, 1):
        start, length = float(box[1 - axis]), max(float(box[3 - axis] - box[1 - axis]), 1e-6)
        step = logits.shape[axis] / length
        lines.append((step, (0.5 - start) * step - 0.5))
    return _sampled(logits, box, placement.source, (lines[0], lines[1]))


_Line = tuple[float, float]
"""Of an axis: cells for each pixel, and the cell of pixel 0."""


def _sampled(logits: NDArray[Any], box: _Box, size: tuple[int, int], lines: tuple[_Line, _Line]) -> Crop:
    """Where the scores are above 0, at the pixels that the box touches."""
    left, top = max(math.floor(box[0]), 0), max(math.floor(box[1]), 0)
    right, bottom = min(math.ceil(box[2]), size[1]), min(math.ceil(box[3]), size[0])
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
