"""Rows and columns in a graph: where each pixel of a resized side is read, as the runtime reads it.

Positions are whole numbers up to the one division that gives a weight: in float32 a long side would be off by a
thousandth of a pixel.
"""

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from segpipe.contract.schema import Contract
from stages.graphs.sheet import Sheet, Value

_HEIGHT_AND_WIDTH = (1, 2)  # of a batch of frames, NxHxWxC


@dataclass(frozen=True)
class Side:
    """Height or width: of the frame, of the resized frame and of the canvas, and where on it the frame begins."""

    source: Value
    resized: Value
    canvas: Value
    offset: Value


@dataclass(frozen=True)
class Taps:
    """For each pixel of a side the two that it lies between, and the weight of the second."""

    first: str
    second: str
    weight: str


def sides(sheet: Sheet, contract: Contract, frame: str) -> tuple[Side, Side]:
    """Height and width of a frame of any size under the contract, as `Contract.place` has them."""
    shape = sheet("Shape", frame)
    source = [sheet("Gather", shape, axis) for axis in _HEIGHT_AND_WIDTH]
    if contract.network_size is None:
        rows, columns = (Side(size, size, _rounded_up(sheet, size, contract.size_multiple), 0) for size in source)
    elif contract.fit == "stretch":
        rows, columns = (Side(size, to, to, 0) for size, to in zip(source, contract.network_size, strict=True))
    else:
        rows, columns = _letterboxed(sheet, source, contract.network_size)
    return rows, columns


def frame_taps(sheet: Sheet, side: Side) -> Taps:
    """For the pixels of the resized frame, their neighbours in the frame."""
    at = _positions(sheet, side.resized, side.source, 0)
    return _taps(sheet, at, half=side.resized, length=side.source)


def score_taps(sheet: Sheet, side: Side, length: str) -> Taps:
    """For the pixels of the frame, their neighbours in scores of that length."""
    at, half = _in_scores(sheet, side, length)
    return _taps(sheet, at, half, length)


def nearest(sheet: Sheet, side: Side, length: str) -> str:
    """For the pixels of the frame, the label that each lies in."""
    at, half = _in_scores(sheet, side, length)
    return _at_most(sheet, sheet("Div", at, sheet("Mul", half, 2)), length)


def blend(sheet: Sheet, values: str, axis: int, taps: Taps) -> str:
    """A tensor of four axes resized along one of them, in float32."""
    first, second = (
        sheet.cast(sheet("Gather", values, at, axis=axis), TensorProto.FLOAT) for at in (taps.first, taps.second)
    )
    behind = np.arange(1, 4 - axis)
    weight = sheet("Unsqueeze", taps.weight, behind) if behind.size else taps.weight
    return sheet("Add", first, sheet("Mul", sheet("Sub", second, first), weight))


def _in_scores(sheet: Sheet, side: Side, length: str) -> tuple[str, str]:
    """Positions in the scores, and half of the number that stands for one score."""
    scale = sheet("Mul", length, side.resized)
    start = sheet("Mul", sheet("Mul", length, side.offset), sheet("Mul", side.source, 2))
    return _positions(sheet, side.source, scale, start), sheet("Mul", side.source, side.canvas)


def _positions(sheet: Sheet, count: Value, scale: Value, start: Value) -> str:
    """The centres of so many pixels, (2i + 1) scale + start."""
    odd = sheet("Add", sheet("Mul", sheet("Range", 0, count, 1), 2), 1)
    return sheet("Add", sheet("Mul", odd, scale), start)


def _taps(sheet: Sheet, at: str, half: Value, length: Value) -> Taps:
    """Neighbours of positions, of which `half` is the centre of the first."""
    whole = sheet("Mul", half, 2)
    from_centre = sheet("Sub", at, half)
    below = sheet("Sub", sheet("Div", sheet("Add", from_centre, whole), whole), 1)  # Div of whole numbers cuts off
    left = sheet("Sub", from_centre, sheet("Mul", below, whole))
    weight = sheet("Div", sheet.cast(left, TensorProto.FLOAT), sheet.cast(whole, TensorProto.FLOAT))
    first = _at_most(sheet, sheet("Max", below, 0), length)
    return Taps(first, _at_most(sheet, sheet("Add", below, 1), length), weight)


def _at_most(sheet: Sheet, at: str, length: Value) -> str:
    """No further than the last one."""
    return sheet("Min", at, sheet("Sub", length, 1))


def _rounded_up(sheet: Sheet, size: str, multiple: int) -> str:
    return sheet("Mul", sheet("Div", sheet("Add", size, multiple - 1), multiple), multiple)


def _letterboxed(sheet: Sheet, source: list[str], canvas: tuple[int, int]) -> tuple[Side, Side]:
    """In double precision and with ties to even, as Python rounds: half a pixel decides a whole row."""
    exact = [sheet.cast(size, TensorProto.DOUBLE) for size in source]
    scale = sheet("Min", *(sheet("Div", np.float64(to), size) for to, size in zip(canvas, exact, strict=True)))
    rounded = [sheet("Round", sheet("Mul", size, scale)) for size in exact]
    resized = [sheet("Max", sheet.cast(size, TensorProto.INT64), 1) for size in rounded]
    rows, columns = (
        Side(size, shown, to, sheet("Div", sheet("Sub", to, shown), 2))
        for size, shown, to in zip(source, resized, canvas, strict=True)
    )
    return rows, columns
