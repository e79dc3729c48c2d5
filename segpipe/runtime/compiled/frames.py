"""Frames to the network's numbers by pixels.c: 8 bits, resized as OpenCV's IPP does it, and normalised."""

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.runtime.compiled.arrays import is_plain

MOST_CHANNELS = 4


class _Taps(ctypes.Structure):
    """The twin of `Taps` in pixels.c."""

    _fields_ = (
        ("size", ctypes.c_int64),
        ("count", ctypes.c_int64),
        ("first", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
    )


class _Frame(ctypes.Structure):
    """The twin of `Frame`."""

    _fields_ = (
        ("pixels", ctypes.c_void_p),
        ("row", ctypes.c_int64),
        ("column", ctypes.c_int64),
        ("channel", ctypes.c_int64),
        ("channels", ctypes.c_int64),
    )


class _Planes(ctypes.Structure):
    """The twin of `Planes`."""

    _fields_ = (
        ("numbers", ctypes.c_void_p),
        ("plane", ctypes.c_int64),
        ("row", ctypes.c_int64),
        ("order", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("shift", ctypes.c_void_p),
    )


@dataclass(frozen=True)
class Sampled:
    """One axis of a resize: the frame's size, each pixel's first neighbour there, and the weight of the second."""

    size: int
    first: NDArray[np.int64]
    weights: NDArray[np.float32]

    @property
    def is_sound(self) -> bool:
        """Whether both arrays have one entry for each pixel."""
        plain = is_plain(self.first, np.int64) and is_plain(self.weights, np.float32)
        return self.size > 0 and plain and self.first.shape == self.weights.shape

    def twin(self) -> _Taps:
        """As pixels.c takes it."""
        return _Taps(self.size, self.first.size, self.first.ctypes.data, self.weights.ctypes.data)


@dataclass(frozen=True)
class Channels:
    """For each of the network's planes: which channel of a frame it is, its scale and its shift."""

    order: NDArray[np.int64]
    scale: NDArray[np.float32]
    shift: NDArray[np.float32]

    def are_sound(self, count: int) -> bool:
        """Whether there are so many."""
        plain = is_plain(self.order, np.int64) and is_plain(self.scale, np.float32) and is_plain(self.shift, np.float32)
        return plain and self.order.size == self.scale.size == self.shift.size == count <= MOST_CHANNELS


class FrameKernels:
    """Called from any thread; other threads go on meanwhile."""

    def __init__(self, library: ctypes.CDLL, fused: bool) -> None:
        frame, axis, planes = ctypes.POINTER(_Frame), ctypes.POINTER(_Taps), ctypes.POINTER(_Planes)
        library.segpipe_frame.argtypes = [frame, axis, axis, planes, ctypes.c_int32]
        self._call, self._fused = library.segpipe_frame, fused

    def fill(
        self, planes: NDArray[Any], pixels: NDArray[Any], rows: Sampled, columns: Sampled, channels: Channels
    ) -> bool:
        """HxWxC of 8 bits, resized and normalised into CxHxW; false where nothing was done."""
        sound = rows.is_sound and columns.is_sound and channels.are_sound(len(planes))
        from_there = pixels.dtype == np.uint8 and pixels.shape == (rows.size, columns.size, len(planes))
        to_here = planes.shape[1:] == (rows.first.size, columns.first.size) and _are_lines(planes)
        if not (sound and from_there and to_here):
            return False
        plane, row = (stride // planes.itemsize for stride in planes.strides[:2])
        order, scale, shift = (array.ctypes.data for array in (channels.order, channels.scale, channels.shift))
        target = _Planes(planes.ctypes.data, plane, row, order, scale, shift)
        source = _Frame(pixels.ctypes.data, *pixels.strides, len(planes))
        return bool(self._call(source, rows.twin(), columns.twin(), target, self._fused))


def _are_lines(planes: NDArray[Any]) -> bool:
    """Whether each row's numbers lie one after the other, in memory that may be written."""
    flags = planes.flags
    return planes.dtype == np.float32 and planes.strides[2] == planes.itemsize and flags.aligned and flags.writeable
